"""Standardisation of pictures: where the field of view is, and grey levels without the scanner's settings."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from shared_model.imaging import find_field, harmonize

HEIGHT, WIDTH = 360, 480


def speckle(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Log-compressed speckle over layers of tissue, grey levels float ``[height, width]``, 30 to 230."""
    random = np.random.default_rng(seed)
    wave = random.normal(size=(2, height, width))
    envelope = np.hypot(*(gaussian_filter(part, 1.0) for part in wave))
    tissue = gaussian_filter(random.normal(size=(height, width)), 25.0)
    decibel = 20.0 * np.log10(envelope / envelope.mean() + 1e-3) + 8.0 * tissue / tissue.std()
    return np.clip(110.0 + 2.5 * decibel, 30.0, 230.0)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def rectangle() -> np.ndarray:
    inside = np.zeros((HEIGHT, WIDTH), dtype=bool)
    inside[30:300, 90:390] = True
    return inside


def arc(nearest: float, farthest: float, *, degrees: float, apex: float) -> np.ndarray:
    """What a probe with its apex ``apex`` pixels below the upper edge sees between two distances."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    across, down = columns - WIDTH / 2, rows - apex
    distance, angle = np.hypot(across, down), np.degrees(np.arctan2(across, down))
    return (distance >= nearest) & (distance < farthest) & (np.abs(angle) < degrees)


TISSUE = speckle(200, 260, seed=3)
DEPTH = np.linspace(0.65, 1.35, 200)[:, None]
FIELDS = {
    "linear": rectangle(),
    "sector": arc(0, 320, degrees=40, apex=10),
    "curved": arc(110, 400, degrees=32, apex=-80),
}


def screen(inside: np.ndarray, *, surround: int = 0) -> np.ndarray:
    """A scanner's screen: the field, and around it text, a ruler and a grey bar."""
    picture = Image.fromarray(grey(np.where(inside, speckle(HEIGHT, WIDTH), surround)))
    draw = ImageDraw.Draw(picture)
    draw.text((140, 330), "TIRADS 4C  PAT 0815  12:31:07", fill=220)
    for row in range(12):
        draw.text((440, 20 + 11 * row), "FR 21Hz", fill=200)
    draw.line((432, 30, 432, 300), fill=180)
    for row in range(30, 300, 10):
        draw.line((428, row, 432, row), fill=180)
    levels = np.array(picture)
    levels[60:180, 20:30] = np.linspace(255, 0, 120)[:, None]
    return levels


@pytest.mark.parametrize("surround", [0, 26])
@pytest.mark.parametrize("shape", FIELDS)
def test_a_field_of_any_shape_is_found_among_text_ruler_and_grey_bar(shape, surround):
    inside = FIELDS[shape]
    found = find_field(screen(inside, surround=surround))
    overlap = (found.inside & inside).sum() / (found.inside | inside).sum()
    assert overlap > (0.97 if shape == "linear" else 0.90)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    truth = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(found.box - truth).max() <= (3 if shape == "linear" else WIDTH // 12)


def test_a_cyst_is_part_of_the_field_and_a_field_without_surround_is_all():
    inside = rectangle()
    levels = screen(inside)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    cyst = np.hypot(rows - 160, columns - 240) < 50
    levels[cyst] = 4
    assert find_field(levels).inside[cyst].all()
    assert find_field(grey(speckle(100, 140))).box == (0, 0, 140, 100)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (2, 2), (40, 1), (50, 70)])
@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_picture_without_texture_is_left_whole(shape, level):
    pixels = np.full(shape, level, dtype=np.uint8)
    found = find_field(pixels)
    assert found.box == (0, 0, shape[1], shape[0])
    assert found.inside.all()
    for intensity in ("none", "range", "gamma", "depth"):
        np.testing.assert_array_equal(harmonize(pixels, intensity=intensity, inside=found.inside), pixels)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_field_is_within_the_picture_and_no_grey_levels_break_anything(pixels):
    found = find_field(pixels)
    x0, y0, x1, y1 = found.box
    assert 0 <= x0 < x1 <= pixels.shape[1]
    assert 0 <= y0 < y1 <= pixels.shape[0]
    assert found.inside[y0:y1, x0:x1].sum() == found.inside.sum() > 0
    for intensity in ("range", "gamma", "depth"):
        changed = harmonize(pixels, intensity=intensity)
        assert (changed.shape, changed.dtype) == (pixels.shape, np.uint8)


@given(arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9))), st.sampled_from(["range", "gamma"]))
def test_what_was_brighter_is_never_darker_afterwards(pixels, intensity):
    changed = harmonize(pixels, intensity=intensity).astype(int).ravel()
    order = np.argsort(pixels, axis=None, kind="stable")
    assert (np.diff(changed[order]) >= 0).all()


@given(arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9))))
def test_time_gain_keeps_the_order_within_each_depth(pixels):
    changed = harmonize(pixels, intensity="depth").astype(int)
    for before, after in zip(pixels, changed, strict=True):
        assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()


def test_the_ends_and_the_median_come_where_they_should():
    pixels = grey(0.003 * TISSUE**2 + 20)
    stretched = harmonize(pixels, intensity="range")
    assert np.percentile(stretched, [1, 99]).tolist() == [0, 255]
    for intensity in ("gamma", "depth"):
        assert np.median(harmonize(pixels, intensity=intensity)) == pytest.approx(0.3 * 255, abs=2)


def test_a_picture_too_bright_or_dark_is_changed_within_bounds():
    """A gamma of at most 2 either way: grey v, 0..1, never falls below v^2 or rises above v^(1/2)."""
    levels = np.linspace(0, 1, 101)
    for power in (0.1, 10.0):
        pixels = grey(255.0 * levels**power)[None, :].repeat(50, axis=0)
        stretched = harmonize(pixels, intensity="range") / 255.0
        changed = harmonize(pixels, intensity="gamma") / 255.0
        assert (changed >= stretched**2 - 0.01).all()
        assert (changed <= stretched**0.5 + 0.01).all()


SETTINGS = {  # how another operator would have set the scanner, and the step that takes it out
    "gain": (0.7 * TISSUE + 25.0, "range", 0.1),
    "gamma": (255.0 * (TISSUE / 255.0) ** 0.7, "gamma", 0.2),
    "gain and gamma": (200.0 * (TISSUE / 255.0) ** 1.4 + 30.0, "gamma", 0.1),
    "time gain": (TISSUE * DEPTH, "depth", 0.45),
    "time gain before compression": (TISSUE + 90.0 * (DEPTH - 1.0), "depth", 0.4),
    "all": (200.0 * (TISSUE * DEPTH / 310.0) ** 0.8 + 50.0, "depth", 0.4),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_settings_of_one_scanner_come_closer(setting):
    """The mean difference of grey levels shrinks to at most a share of what it was."""
    other, intensity, share = SETTINGS[setting]
    first, second = grey(TISSUE), grey(other)
    before = np.abs(first.astype(float) - second).mean()
    after = np.abs(harmonize(first, intensity=intensity).astype(float) - harmonize(second, intensity=intensity)).mean()
    # Stretched pictures have more contrast: compare by the spread of the first one before and after.
    assert after / harmonize(first, intensity=intensity).std() < share * before / first.std()


@pytest.mark.parametrize("intensity", ["range", "gamma", "depth"])
@pytest.mark.parametrize("surround", [0, 26])
def test_the_surround_does_not_count(intensity, surround):
    alone = grey(TISSUE)
    framed = np.pad(alone, ((0, 0), (90, 60)), constant_values=surround)
    inside = np.pad(np.ones(alone.shape, dtype=bool), ((0, 0), (90, 60)))
    changed = harmonize(framed, intensity=intensity, inside=inside)
    np.testing.assert_array_equal(changed[:, 90:-60], harmonize(alone, intensity=intensity))
    assert not changed[~inside].any()


def test_an_anechoic_cyst_and_a_shadow_stay_dark():
    levels = grey(TISSUE)
    levels[60:110, 80:150] = 2
    levels[150:] = np.minimum(levels[150:], 12)
    changed = harmonize(levels, intensity="depth")
    assert changed[60:110, 80:150].max() == 0
    assert np.median(changed[160:]) < 0.5 * np.median(changed[:60])


def test_done_twice_is_as_done_once():
    once = harmonize(grey(TISSUE * DEPTH), intensity="gamma")
    assert np.abs(harmonize(once, intensity="gamma").astype(float) - once).mean() < 3.0


def test_the_input_is_left_as_it_was():
    pixels = grey(TISSUE)
    copy = pixels.copy()
    for intensity in ("range", "gamma", "depth"):
        harmonize(pixels, intensity=intensity)
    np.testing.assert_array_equal(pixels, copy)
    assert harmonize(pixels, intensity="none") is pixels


@pytest.fixture(scope="module")
def real_data() -> Path:
    folder = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set CONSILIUM_DATA")
    return folder


@pytest.mark.data
def test_thyroid_screens_keep_their_nodules_and_lose_their_text(real_data):
    """DDTI types TI-RADS below the scan, which ends at row 310 of 360 where there is one scan on the screen."""
    with (real_data / "ddti" / "index.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["x0"]][::6]
    cut, low = 0, 0
    for row in rows:
        x0, y0, x1, y1 = find_field(np.asarray(Image.open(real_data / "ddti" / row["image"]).convert("L"))).box
        beyond = (x0 - float(row["x0"]), y0 - float(row["y0"]), float(row["x1"]) - x1, float(row["y1"]) - y1)
        cut += max(beyond) > 4.0
        low += y1 > 320
        assert 0.2 < (x1 - x0) * (y1 - y0) / (360 * 560) < 0.95
    assert cut <= 0.02 * len(rows)
    assert low <= 0.1 * len(rows)


@pytest.mark.data
def test_breast_pictures_that_are_cropped_already_stay_nearly_whole(real_data):
    files = sorted((real_data / "busbra_256" / "Images").iterdir())[::40]
    shares = []
    for file in files:
        pixels = np.asarray(Image.open(file).convert("L"))
        x0, y0, x1, y1 = find_field(pixels).box
        shares.append((x1 - x0) * (y1 - y0) / pixels.size)
    assert np.median(shares) > 0.97
    assert min(shares) > 0.4
