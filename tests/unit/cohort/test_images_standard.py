"""What a protocol's picture settings make of a frame: field of view, millimetres, intensity; and of the cache."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from client.cohort.contact_sheet import contact_sheet
from client.cohort.images import Frame, Reason, UnusableImageError, region_shown, standardize
from shared_model.config_file import validate
from shared_model.errors import ConfigurationError
from shared_model.protocol import Images, View

SPECKLE = np.clip(120 + 60 * gaussian_filter(np.random.default_rng(0).normal(size=(120, 160)), 0.8), 20, 235).astype(np.uint8)


def settings(**changes: object) -> Images:
    return Images(**({"views": {"v": View()}, "size": 32} | changes))


def disc(radius: float, *, side: int = 120) -> Frame:
    """A bright disc in the middle of a grey square, with its box."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    inside = np.hypot(rows - side / 2, columns - side / 2) < radius
    pixels = np.where(inside, np.uint8(200), np.uint8(40))
    low, high = side / 2 - radius, side / 2 + radius
    return Frame(pixels, mask=np.where(inside, np.uint8(255), np.uint8(0)), box=(low, low, high, high))


def screen() -> Frame:
    """A field of 160 x 120 in a black screen of 300 x 200 with a bright line of text below, and a lesion in it."""
    pixels = np.zeros((200, 300), dtype=np.uint8)
    pixels[20:140, 60:220] = SPECKLE
    pixels[170:178, 80:180:3] = 255
    return Frame(pixels, box=(100, 60, 130, 90))


def reason(frame: Frame, **changes: object) -> Reason:
    with pytest.raises(UnusableImageError) as caught:
        standardize(frame, settings(**changes))
    return caught.value.reason


def test_a_stated_field_is_as_if_the_picture_had_been_cut_to_it():
    frame = screen()
    cut = Frame(SPECKLE, box=(40, 40, 70, 70))
    for changes in ({}, {"crop": "lesion", "lesion_mask": True}, {"intensity": "depth"}):
        expected = standardize(cut, settings(**changes))
        np.testing.assert_array_equal(standardize(replace(frame, field=(60, 20, 220, 140)), settings(**changes)), expected)


def test_a_field_is_detected_only_where_none_is_stated_and_only_if_asked_for():
    frame = screen()
    whole = standardize(frame, settings())
    assert whole[0, -4:].max() == 0
    x0, y0, x1, y1 = region_shown(frame, settings(field="detect"))
    assert np.abs(np.array([x0, y0, x1, y1]) - (60, 20, 220, 140)).max() <= 3
    assert region_shown(frame, settings()) == (0, 0, 300, 200)
    assert region_shown(replace(frame, field=(50, 10, 200, 100)), settings(field="detect")) == (50, 10, 200, 100)


def test_detection_never_cuts_the_lesion_off():
    frame = replace(screen(), box=(40, 30, 90, 150))
    x0, _, _, y1 = region_shown(frame, settings(field="detect"))
    assert x0 <= 40
    assert y1 >= 150
    mask = np.zeros_like(frame.pixels)
    mask[30:150, 40:90] = 255
    assert region_shown(replace(frame, box=None, mask=mask), settings(field="detect"))[0] <= 40


@pytest.mark.parametrize("field", [(300, 0, 400, 100), (50, 50, 50, 90), (-20, -20, -1, -1)])
def test_a_field_outside_the_picture_is_a_reason(field):
    assert reason(replace(screen(), field=field)) is Reason.FIELD


@pytest.mark.parametrize("mm", [0.05, 0.1, 0.21])
@pytest.mark.parametrize("crop", ["whole", "lesion"])
def test_a_disc_has_its_physical_size_whatever_the_resolution(mm, crop):
    """A disc of 4 mm at 0.25 mm a pixel has a diameter of 16 pixels, hence an area of 201."""
    frame = replace(disc(2.0 / mm, side=160), mm_per_pixel=mm)
    pixels = standardize(frame, settings(mm_per_pixel=0.25, crop=crop, lesion_mask=True))
    assert (pixels[1] > 0).sum() == pytest.approx(np.pi * 8**2, rel=0.05)
    share = (pixels[0].astype(float) - 40).clip(0).sum() / 160
    assert share == pytest.approx(np.pi * 8**2, rel=0.02)  # a scale within 1 %


@given(st.floats(0.02, 1.0), st.floats(0.02, 1.0), st.integers(1, 90), st.integers(1, 90))
def test_any_scale_gives_a_picture_of_the_size(known, wanted, width, height):
    frame = Frame(np.full((height, width), 99, dtype=np.uint8), mm_per_pixel=known)
    pixels = standardize(frame, settings(mm_per_pixel=wanted))
    assert pixels.shape == (1, 32, 32)
    assert set(np.unique(pixels)) <= {0, 99}
    assert pixels.any()


def test_an_unknown_scale_falls_back_to_the_size():
    frame = disc(20)
    asked = standardize(frame, settings(mm_per_pixel=0.25, crop="lesion", context=0.5))
    np.testing.assert_array_equal(asked, standardize(frame, settings(crop="lesion", context=0.5)))
    asked = standardize(frame, settings(context_mm=3.0, crop="lesion", context=0.5))
    np.testing.assert_array_equal(asked, standardize(frame, settings(crop="lesion", context=0.5)))


def test_a_margin_in_millimetres_is_that_wide():
    frame = replace(disc(20), mm_per_pixel=0.1)
    assert region_shown(frame, settings(crop="lesion", context_mm=1.5)) == (25, 25, 95, 95)  # 4 mm and twice 1.5 mm
    assert region_shown(frame, settings(crop="lesion", mm_per_pixel=0.25)) == (20, 20, 100, 100)  # 32 pixels of 0.25 mm


def test_resampling_to_coarser_pixels_averages():
    checkerboard = (np.indices((128, 128)).sum(axis=0) % 2 * 200).astype(np.uint8)
    pixels = standardize(Frame(checkerboard, mm_per_pixel=0.05), settings(mm_per_pixel=0.2))
    assert np.abs(pixels[0, 2:-2, 2:-2].astype(int) - 100).max() <= 2


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"context_mm": 2.0}, "context_mm"),
        ({"context_mm": 2.0, "crop": "lesion", "mm_per_pixel": 0.1}, "mm_per_pixel"),
        ({"mm_per_pixel": 0.0}, "mm_per_pixel"),
        ({"intensity": "histogram"}, "intensity"),
        ({"field": "box"}, "field"),
    ],
)
def test_settings_that_make_no_sense_are_faults(changes, key):
    with pytest.raises(ConfigurationError) as caught:
        validate({"views": {"v": {}}, "size": 32} | changes, Images, where="study.toml")
    assert key in str(caught.value)


def test_two_settings_of_one_scanner_come_closer_and_the_lesion_stays_where_it_was():
    bright = np.clip(1.2 * (SPECKLE / 255.0) ** 0.7 * 200 + 15, 0, 255).astype(np.uint8)
    first, second = (Frame(pixels, box=(40, 40, 70, 70)) for pixels in (SPECKLE, bright))

    def difference(intensity: str) -> float:
        asked = settings(intensity=intensity, crop="lesion", lesion_mask=True)
        one, other = standardize(first, asked), standardize(second, asked)
        np.testing.assert_array_equal(one[1], other[1])
        return float(np.abs(one[0].astype(float) - other[0]).mean())

    found = {intensity: difference(intensity) for intensity in ("none", "range", "gamma", "depth")}
    assert found["none"] > 30.0
    assert found["range"] < 12.0
    assert max(found["gamma"], found["depth"]) < 3.0


def test_the_grey_levels_of_doppler_are_left_alone():
    views = {"b": View(), "flow": View(modality="doppler")}
    asked, plain = settings(views=views, intensity="gamma"), settings(views=views)
    flow, unnamed = Frame(SPECKLE, view="flow"), Frame(SPECKLE)
    np.testing.assert_array_equal(standardize(flow, asked), standardize(flow, plain))
    np.testing.assert_array_equal(standardize(Frame(SPECKLE, view="b"), asked), standardize(unnamed, asked))
    assert (standardize(unnamed, asked) != standardize(unnamed, plain)).any()


def test_the_view_of_a_picture_decides_about_its_intensity(hospital):
    for k in range(12):
        for view in "TL":
            hospital.picture(f"img/p{k:02}_{view}.png", SPECKLE)
    study = {"images": {"views": {"transverse": {}, "longitudinal": {"modality": "doppler"}}}}
    plain = hospital.load(study=study).tensors
    changed = hospital.load(study=study | {"images": study["images"] | {"intensity": "gamma"}}).tensors
    differs = (plain.images != changed.images).flatten(1).any(dim=1)[plain.slots]  # [P, V]
    assert (differs == (plain.views == 0)).all()


@pytest.mark.parametrize("intensity", ["range", "gamma", "depth"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (60, 60)])
def test_constant_and_tiny_pictures_survive(intensity, shape):
    pixels = standardize(Frame(np.full(shape, 77, dtype=np.uint8)), settings(intensity=intensity, field="detect"))
    assert set(np.unique(pixels)) <= {0, 77}
    assert pixels.any()


@pytest.mark.parametrize(
    "changes",
    [{"intensity": "range"}, {"field": "detect"}, {"mm_per_pixel": 0.2}, {"crop": "lesion", "context_mm": 2.0}],
)
def test_a_setting_that_changes_pixels_changes_the_key_of_the_cache(hospital, changes):
    site = {"images": {"roi": ["x0", "y0", "x1", "y1"]}}
    base = {"images": {"crop": "lesion"}} if "crop" in changes else {}
    assert hospital.load(site, base).findings.images.cache == "built"
    assert hospital.load(site, base).findings.images.cache == "read"
    assert hospital.load(site, {"images": changes}).findings.images.cache.startswith("rebuilt")


def test_another_scale_of_the_site_changes_the_key_of_the_cache(hospital):
    assert hospital.load({"images": {"mm_per_pixel": 0.1}}).findings.images.cache == "built"
    assert hospital.load({"images": {"mm_per_pixel": 0.2}}).findings.images.cache.startswith("rebuilt")
    assert hospital.load({"images": {"mm_per_pixel": 0.2}}).findings.images.cache == "read"


def test_a_contact_sheet_has_each_picture_before_and_after():
    frames = [screen(), disc(20), Frame(SPECKLE)]  # the last has no lesion, and is unusable
    asked = settings(crop="lesion", intensity="gamma")
    sheet = np.asarray(contact_sheet(frames, asked, columns=2, side=64))
    assert sheet.shape == (2 * 68 + 4, 2 * 136 + 4, 3)
    after = sheet[4:68, 72 + 0 : 72 + 64].astype(int)
    expected = np.asarray(standardize(frames[0], asked)[0], dtype=float)
    blocks = after[..., 0].reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.corrcoef(blocks.ravel(), expected.ravel())[0, 1] > 0.95
    assert (sheet == (255, 200, 0)).all(axis=2).any()
    assert (sheet == (0, 190, 255)).all(axis=2).any()
    assert (sheet[72:136, 72:136] == 40).all()  # nothing after the unusable one
    assert (sheet[72:136, 140:] == 40).all()  # and no fourth


def test_a_contact_sheet_of_nobody_and_of_one_pixel():
    assert contact_sheet([], settings()).size[1] == 4
    one = Frame(np.full((1, 1), 200, dtype=np.uint8))
    assert contact_sheet([one], settings(), columns=1, side=32).size == (76, 40)
