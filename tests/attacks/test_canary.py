"""Names planted in tags, pixels, file names, table cells and identifiers: none of them may come out anywhere.

What ``check`` prints on the data manager's own screen names files, and cells that no code explains; everything that is
written down, logged or sent does not.
"""

import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from client.cli import app as site_app
from client.cohort import deidentify
from client.cohort.pseudonyms import Pseudonyms
from server.cli import app as center_app
from shared_model import messages
from tests.dicoms import region, speckle, with_text, write_object

pytestmark = pytest.mark.attacks

TAG, FILE, CELL, CODE, IDENTIFIER, VIEW = "CanaryTag", "CanaryFile", "CanaryCell", "CanaryCode", "CanaryId", "CanaryView"
CANARIES = (TAG, FILE, CELL, CODE, IDENTIFIER, VIEW)
ON_SCREEN = (FILE, CODE)  # where a person must mend something, the person is told which
BANNER = "CANARY"
SIZE, MARGIN, PATIENTS = 64, 32, 24

STUDY = {
    "study": {"name": "canary", "title": "Canaries", "outcome": "1 is positive"},
    "variables": {
        "age": {"kind": "numeric", "unit": "years", "range": [0, 110]},
        "sex": {"kind": "categorical", "categories": ["female", "male"]},
    },
    "images": {"views": {"transverse": {}}, "size": SIZE, "per_patient": 1},
    "network": {"width": 16, "heads": 2, "bidirectional_blocks": 1, "joint_blocks": 0, "image_grid": 2},
    "training": {"steps": 2, "batch_size": 8},
    "federation": {"rounds": 1},
}


@dataclass
class Ward:
    """Two hospitals full of canaries, and everything that came out of them."""

    folder: Path
    sites: list[Path] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)

    @property
    def study(self) -> Path:
        return self.folder / "in/study.toml"

    def check(self, *options: str) -> str:
        result = CliRunner().invoke(site_app, ["check", str(self.sites[0]), "--study", str(self.study), "--fast", *options])
        assert result.exit_code == 0, result.output
        return result.output

    def written(self) -> Iterator[tuple[str, bytes]]:
        """Every file outside the hospitals' own exports, by path, and every text that was kept."""
        yield from self.texts.items()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.is_relative_to(self.folder / "in"):
                yield str(path.relative_to(self.folder)), path.read_bytes()
                yield "the name of a file", str(path.relative_to(self.folder)).encode()

    def leaks(self) -> set[tuple[str, str]]:
        return {(place, canary) for place, content in self.written() for canary in found_in(content)}


def found_in(content: bytes) -> set[str]:
    spellings = {
        canary: {
            text.encode(encoding)
            for text in (canary, canary.upper(), canary.lower())
            for encoding in ("utf-8", "utf-16-le", "utf-16-be")
        }
        for canary in CANARIES
    }
    return {canary for canary, texts in spellings.items() if any(text in content for text in texts)}


def picture(seed: int) -> np.ndarray:
    """Tissue below a margin that holds a name."""
    pixels = np.zeros((2 * SIZE + MARGIN, 2 * SIZE), dtype=np.uint8)
    pixels[MARGIN:] = speckle(2 * SIZE, 2 * SIZE, seed=seed)
    return with_text(pixels, BANNER, (6, 2), size=28)


def name_is_seen(images: np.ndarray) -> bool:
    """Whether the name stands in one of ``images`` uint8 ``[M, C, S, S]``, at the size of a whole picture or of the field."""
    plain = with_text(np.zeros((2 * SIZE + MARGIN, 2 * SIZE), dtype=np.uint8), BANNER, (6, 2), size=28)
    for side in (SIZE, SIZE * plain.shape[0] // plain.shape[1]):
        small = np.asarray(Image.fromarray(plain).resize((side * plain.shape[1] // plain.shape[0], side)))
        rows, columns = np.nonzero(small > 40)
        template = small[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(float)
        template = (template - template.mean()) / template.std()
        for image in images[:8, 0].astype(float):
            if any(extent > limit for extent, limit in zip(template.shape, image.shape, strict=True)):
                continue
            windows = sliding_window_view(image, template.shape)  # [rows, columns, h, w]
            spread = windows.std(axis=(2, 3)) + 1e-6
            match = np.einsum("abhw,hw->ab", windows, template) / template.size / spread
            if match.max() > 0.7:
                return True
    return False


def cached_images(ward: Ward) -> list[np.ndarray]:
    return [load_file(path)["images"] for path in (ward.folder / "cache").rglob("*.safetensors")]


def hospital(folder: Path, name: str, *, seed: int) -> Path:
    """An export whose every corner holds a name: one picture a patient, the last of them damaged."""
    rows = []
    for k in range(PATIENTS):
        identifier = f"{IDENTIFIER}{name}{k:03}"
        sex = CODE if k == 0 else "FM"[k % 2]
        rows.append({"id": identifier, "name": f"{CELL} Roe", "age": 30 + k, "sex": sex, "outcome": k // 2 % 2})
        path = write_object(
            folder / "pacs" / f"{FILE}_{k:03}.dcm",
            picture(seed + k),
            PatientID=identifier,
            PatientName=f"{TAG}^Richard",
            PatientComments=TAG,
            InstitutionName=TAG,
            ReferringPhysicianName=f"{TAG}^Doctor",
            AccessionNumber=TAG,
            SeriesDescription=f"trans {VIEW}",
            SequenceOfUltrasoundRegions=[region((0, MARGIN, 2 * SIZE - 1, 2 * SIZE + MARGIN - 1))],
        )
    path.write_bytes(path.read_bytes()[:-1000])
    with (folder / "patients.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    variables = {"age": {"column": "age", "unit": "years"}, "sex": {"column": "sex", "codes": {"F": "female", "M": "male"}}}
    label = {"column": "outcome", "positive": [1], "negative": [0]}
    # Graphics are kept, so that nothing but the crop to the region keeps the name out.
    images = {"dicom": "pacs", "view": {"tag": "SeriesDescription", "match": {"trans": "transverse"}}, "burned_in": "keep"}
    site = {
        "site": {"name": name},
        "cohort": {"table": "patients.csv", "patient_id": "id", "label": label, "variables": variables},
        "images": images,
    }
    (folder / "site.toml").write_text(tomli_w.dumps(site))
    return folder / "site.toml"


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    monkeypatch.setenv("CONSILIUM_CACHE", str(tmp_path / "cache"))
    made = Ward(tmp_path)
    made.sites = [hospital(tmp_path / "in" / name, name, seed=100 * seed) for seed, name in enumerate(("east", "west"))]
    made.study.write_text(tomli_w.dumps(STUDY))
    return made


def test_no_name_comes_out_of_a_hospital(ward, monkeypatch, caplog):
    encode, sent = messages.encode, []

    def recorded(message: messages.Message) -> messages.Envelope:
        sent.append(encode(message))
        return sent[-1]

    monkeypatch.setattr(messages, "encode", recorded)
    caplog.set_level(logging.INFO, logger="matplotlib")  # which tells of every font
    with caplog.at_level(logging.DEBUG):
        screen = ward.check()
        ward.texts["check --json"] = ward.check("--json").encode()
        beside_the_page = ward.check("--html", str(ward.folder / "page.html"))
        run = ["simulate", str(ward.study), *map(str, ward.sites), "--out", str(ward.folder / "run"), "--rounds", "1"]
        simulated = CliRunner().invoke(center_app, run)
    assert simulated.exit_code == 0, simulated.output
    ward.texts |= {"output of the center": simulated.output.encode(), "log": caplog.text.encode()}
    ward.texts["messages"] = b"".join(envelope.header + envelope.payload for envelope in sent)
    assert len(sent) >= 6
    assert json.loads(ward.texts["check --json"])["images"]["used"] == PATIENTS - 1
    assert {path.name for path in (ward.folder / "run").iterdir()} >= {"results.json", "report.html", "journal.sqlite"}
    assert ward.leaks() == set()
    assert (ward.folder / "page.html").exists()
    assert found_in(screen.encode()) == found_in(beside_the_page.encode()) == set(ON_SCREEN)
    images = cached_images(ward)
    assert len(images) == 2
    assert not any(name_is_seen(own) for own in images)


def test_the_search_finds_a_name_if_the_crop_is_off(ward, monkeypatch):
    monkeypatch.setattr(deidentify, "keep_only", lambda pixels, box: pixels.copy())
    ward.check()
    assert name_is_seen(cached_images(ward)[0])


def test_the_search_finds_names_if_pseudonyms_are_off(ward, monkeypatch):
    monkeypatch.setattr(Pseudonyms, "of", lambda self, text: text)
    ward.texts["check --json"] = ward.check("--json").encode()
    ward.check("--html", str(ward.folder / "page.html"))
    assert ward.leaks() == {("check --json", FILE), ("check --json", CODE), ("page.html", FILE), ("page.html", CODE)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_the_search_knows_spellings(encoding):
    assert found_in(b"\0x" + CELL.upper().encode(encoding)) == {CELL}
    assert found_in(b"canary") == set()
