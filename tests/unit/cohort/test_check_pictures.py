"""Duplicates, borders, text and contact sheets of pictures; rows that repeat."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from client.cohort.pictures import Picture
from client.cohort.tensors import CohortTensors
from client.preflight.marks import marked_blocks, text_check
from client.preflight.pictures import (
    border_features,
    contact_sheets,
    duplicate_check,
    owned_pictures,
    row_check,
    standardisation_sheets,
)
from shared_model.protocol import Images, View

PATIENTS, SIDE = 12, 64


def cohort(grey: np.ndarray) -> tuple[CohortTensors, dict[str, torch.Tensor]]:
    """One picture a patient; the first half trains, the rest is for testing."""
    count = len(grey)
    none = torch.zeros(count, 0)
    tensors = CohortTensors(
        images=torch.from_numpy(grey)[:, None],
        slots=torch.arange(count)[:, None],
        views=torch.zeros(count, 1, dtype=torch.int64),
        numeric=none,
        numeric_present=none.bool(),
        categorical=none.long(),
        label=(torch.arange(count) % 2).float(),
    )
    half = torch.arange(count // 2)
    return tensors, {"train": half, "tune": torch.zeros(0, dtype=torch.int64), "test": half + count // 2}


@pytest.fixture
def grey() -> np.ndarray:
    """Smooth random pictures, each unlike the others."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (PATIENTS, 8, 8), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in small])


def test_different_pictures_pass(grey):
    assert duplicate_check(owned_pictures(*cohort(grey))).status == "pass"


def test_an_identical_picture_in_another_part_fails(grey):
    grey[7] = grey[1]
    check = duplicate_check(owned_pictures(*cohort(grey)))
    assert check.status == "fail"
    assert check.problems[0].what.endswith("in different parts: 1 pairs")


def test_an_identical_picture_in_the_same_part_warns(grey):
    grey[2] = grey[1]
    assert duplicate_check(owned_pictures(*cohort(grey))).status == "warn"


def test_a_copy_that_was_saved_again_is_recognised(grey):
    content = io.BytesIO()
    Image.fromarray(grey[1]).save(content, "JPEG", quality=60)
    grey[7] = np.clip(np.asarray(Image.open(content)).astype(int) * 0.8 + 10, 0, 255)
    check = duplicate_check(owned_pictures(*cohort(grey)))
    assert check.status == "warn"
    assert "nearly identical" in check.problems[0].what


def test_thousands_of_copies_are_counted_at_once(grey):
    """A folder in which every patient has the same two pictures: pairs grow with the square of the copies."""
    almost = grey[0].copy()
    almost[0, 0] ^= 1
    check = duplicate_check(owned_pictures(*cohort(np.concatenate([np.stack([grey[0], almost])] * 2000))))
    assert check.found == "4000 pictures: 3998 pairs identical, 1 nearly, between patients"
    assert check.status == "fail"


def test_flat_pictures_are_no_duplicates():
    flat = np.zeros((PATIENTS, SIDE, SIDE), dtype=np.uint8)
    assert duplicate_check(owned_pictures(*cohort(flat))).status == "pass"


def test_two_pictures_of_one_patient_may_be_alike(grey):
    tensors, parts = cohort(grey[:2])
    both = CohortTensors(
        **{name: getattr(tensors, name) for name in ("images", "numeric", "numeric_present", "categorical", "label")},
        slots=torch.tensor([[0, 1], [-1, -1]]),
        views=torch.tensor([[0, 0], [-1, -1]]),
    )
    both.images[1] = both.images[0]
    pictures = owned_pictures(both, parts)
    assert pictures.patient.tolist() == [0, 0]
    assert duplicate_check(pictures).status == "pass"


def test_border_features_are_those_of_the_border(grey):
    grey[:] = 0
    grey[:, -8:, :] = 200
    features = border_features(owned_pictures(*cohort(grey)), patients=PATIENTS)
    assert features["top"].max() == 0.0
    assert features["bottom"][:, :8].min() == 200.0
    assert features["left"][:, 7].tolist() == [200.0] * PATIENTS


def test_typed_text_on_black_is_found(grey):
    assert text_check(grey).status == "pass"
    framed = np.zeros((PATIENTS, 256, 256), dtype=np.uint8)
    framed[:, 60:180, 40:200] = 90
    for place in range(0, PATIENTS, 2):
        framed[place, 212:220:3, 20:120:4] = 250  # dots on black, some way below the scan
    check = text_check(framed)
    assert check.status == "warn"
    assert "50% of pictures have marks on black round the scan, 50% marks that others lack" in check.found
    assert marked_blocks(framed)[1].sum() == 0


def test_contact_sheets_show_both_outcomes(grey):
    tensors, parts = cohort(grey)
    (sheet,) = contact_sheets(owned_pictures(tensors, parts), tensors, ["bmode"])
    assert sheet.caption.startswith("bmode: 12 pictures")
    pixels = np.asarray(Image.open(io.BytesIO(sheet.jpeg)))
    assert pixels.shape == (228, 924)
    assert pixels[:112].std() > 10
    assert pixels[116:].std() > 10


def test_pictures_are_shown_before_and_after_standardisation(tmp_path):
    """Of each view that there is; a file that cannot be read leaves its place to others."""
    dark = tmp_path / "dark.png"
    Image.fromarray(np.tile(np.linspace(10, 60, 96).astype(np.uint8), (80, 1))).save(dark)
    (tmp_path / "torn.png").write_bytes(b"no picture")
    files = [dark, tmp_path / "torn.png", dark]
    pictures = [Picture(0, 1, file, None, (20.0, 20.0, 60.0, 60.0), None) for file in files]
    settings = Images(size=64, intensity="range", views={"transverse": View(), "longitudinal": View()})
    (sheet,) = standardisation_sheets(pictures, settings)
    assert sheet.caption.startswith("longitudinal: before and after")
    pixels = np.asarray(Image.open(io.BytesIO(sheet.jpeg)).convert("L")).astype(int)
    before, after = pixels[4:164, 4:164], pixels[4:164, 168:328]
    assert before.max() < 240 <= after.max()  # the outlines, and the stretch of grey levels
    assert np.ptp(pixels[4:164, 332 + 330 :]) < 10  # two pairs: the third was no picture


def test_rows_that_repeat_are_counted_also_across_parts():
    columns = {"age": ["1", "2", "1", "1"], "sex": ["f", "f", "f", "f"], "t": ["a", "b", "a", "c"]}
    check = row_check(columns, ["train", "train", "test", "test"])
    assert check.status == "warn"
    assert "1 patients have the same row as another; 2 patients of such groups are in different parts" in check.problems[0].what
    assert row_check({"age": ["1", "2"]}, ["train", "test"]).status == "pass"
