"""Pixels and scale of DICOM ultrasound, against the arrays written, pydicom's own decoding and pydicom's real examples."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, convert_color_space, pixel_array

from client.cohort.dicom import Rules, has_flow, read_frame
from client.cohort.images import Reason, UnusableImageError
from client.site_config import SiteConfig
from shared_model import config_file
from tests.dicoms import LOSSLESS, MULTI_FRAME, colours, palette, region, speckle, write_object

KEEP = Rules(region="declared", burned_in="keep")
BOX = (4, 6, 35, 25)  # inclusive
FIELD = (slice(6, 26), slice(4, 36))


def luminance(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


def reason(path: Path, rules: Rules = KEEP) -> Reason:
    with pytest.raises(UnusableImageError) as caught:
        read_frame(path, rules)
    return caught.value.reason


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("draw", [speckle, colours])
def test_lossless_pixels_are_those_written(tmp_path, syntax, draw):
    pixels = draw(30, 40)
    path = write_object(tmp_path / "a.dcm", pixels, syntax=syntax, SequenceOfUltrasoundRegions=[region(BOX)])
    np.testing.assert_array_equal(read_frame(path, KEEP).pixels, luminance(pixels)[FIELD])


@pytest.mark.parametrize("syntax", ["jpeg", "jpeg 4:2:2"])
@pytest.mark.parametrize("draw", [speckle, colours])
def test_lossy_pixels_are_those_that_pydicom_decodes(tmp_path, syntax, draw):
    pixels = draw(30, 40)
    path = write_object(tmp_path / "a.dcm", pixels, syntax=syntax, SequenceOfUltrasoundRegions=[region(BOX)])
    found = read_frame(path, KEEP).pixels
    np.testing.assert_array_equal(found, luminance(pixel_array(path))[FIELD])
    assert np.abs(found.astype(int) - luminance(pixels)[FIELD]).mean() < 3


@pytest.mark.parametrize("stored", ["YBR_FULL", "YBR_FULL_422"])
def test_uncompressed_colour_differences(tmp_path, stored):
    pixels = colours(30, 40)
    ybr = convert_color_space(pixels, "RGB", "YBR_FULL")
    if stored == "YBR_FULL_422":
        ybr[:, 1::2, 1:] = ybr[:, ::2, 1:]
    path = write_object(tmp_path / "a.dcm", ybr, PhotometricInterpretation=stored, SequenceOfUltrasoundRegions=[region(BOX)])
    if stored == "YBR_FULL_422":
        data = dcmread(path)
        data.PixelData = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1).tobytes()
        data.save_as(path)
    found = read_frame(path, KEEP).pixels
    np.testing.assert_array_equal(found, luminance(convert_color_space(ybr, "YBR_FULL", "RGB"))[FIELD])


def test_palettes_are_applied(tmp_path):
    entries = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)], axis=1).astype(np.uint8)
    pixels = speckle(30, 40)
    path = write_object(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=[region(BOX)], **palette(entries))
    np.testing.assert_array_equal(read_frame(path, KEEP).pixels, luminance(entries[pixels])[FIELD])


def test_inverted_and_deep_levels(tmp_path):
    regions = [region(BOX)]
    pixels = speckle(30, 40)
    inverted = write_object(
        tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", SequenceOfUltrasoundRegions=regions
    )
    np.testing.assert_array_equal(read_frame(inverted, KEEP).pixels, 255 - pixels[FIELD])
    deep = pixels.astype(np.uint16) * 16
    path = write_object(tmp_path / "b.dcm", deep, BitsStored=12, HighBit=11, SequenceOfUltrasoundRegions=regions)
    np.testing.assert_allclose(read_frame(path, KEEP).pixels, pixels[FIELD], atol=1)


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg lossless"])
def test_any_frame_of_a_clip(tmp_path, syntax):
    clip = np.stack([speckle(30, 40, seed=seed) for seed in range(3)])
    path = write_object(
        tmp_path / "a.dcm", clip, syntax=syntax, SOPClassUID=MULTI_FRAME, SequenceOfUltrasoundRegions=[region(BOX)]
    )
    for number in range(3):
        np.testing.assert_array_equal(read_frame(path, KEEP, number=number).pixels, clip[number][FIELD])


@pytest.mark.parametrize("name", ["examples_jpeg2k", "examples_palette", "examples_rgb_color", "examples_ybr_color"])
def test_pydicoms_real_ultrasound(name):
    """Two declare no region, and the regions of the other two do not fit their (cut, resampled) pictures: a given box it is."""
    path = Path(get_testdata_file(f"{name}.dcm"))
    data = dcmread(path)
    reference = pixel_array(path, index=0)
    if data.PhotometricInterpretation == "PALETTE COLOR":
        reference = (apply_color_lut(reference, data) >> 8).astype(np.uint8)
    found = read_frame(path, Rules(region=(20, 30, 220, 200), burned_in="keep"))
    np.testing.assert_array_equal(found.pixels, luminance(reference)[30:200, 20:220])
    assert reason(path) == Reason.NO_REGION


def test_the_scale_of_a_real_object():
    path = Path(get_testdata_file("examples_palette.dcm"))
    assert read_frame(path, Rules("detect", "mask")).mm_per_pixel == pytest.approx(0.2622879, rel=1e-5)
    resampled = Path(get_testdata_file("examples_ybr_color.dcm"))
    assert read_frame(resampled, Rules("detect", "mask")).mm_per_pixel is None


def test_the_field_of_real_pictures_is_found_and_its_surround_dropped():
    sector = read_frame(Path(get_testdata_file("examples_palette.dcm")), Rules("detect", "mask")).pixels
    assert 60 <= sector.shape[0] <= 110  # the sector is 90 pixels high, below a banner of 60 and a line of text
    assert 220 <= sector.shape[1] <= 270
    node = read_frame(Path(get_testdata_file("examples_jpeg2k.dcm")), Rules("detect", "mask")).pixels
    assert 220 <= node.shape[0] <= 240
    assert node.shape[1] > 590


@pytest.mark.parametrize("name", ["examples_jpeg2k", "examples_rgb_color"])
def test_power_doppler_of_a_real_lymph_node(name):
    path, rules = Path(get_testdata_file(f"{name}.dcm")), Rules("detect", "mask")
    assert has_flow(path, rules, number=0)
    grey, flow = (read_frame(path, rules, modality=modality).pixels.astype(int) for modality in ("grey", "flow"))
    middle = (slice(grey.shape[0] // 3, grey.shape[0] * 2 // 3), slice(grey.shape[1] // 6, grey.shape[1] // 2))
    vessels = flow[middle] > 150
    assert 0.05 < vessels.mean() < 0.6
    assert grey[middle][vessels].mean() < 40
    assert (flow == 0).mean() > 0.7
    assert not has_flow(Path(get_testdata_file("examples_ybr_color.dcm")), rules, number=0)


@pytest.mark.parametrize(("cm", "mm"), [((0.008, 0.008), 0.08), ((-0.02, 0.02), 0.2), ((0.02, 0.01), 0.1)])
def test_the_declared_scale_within_a_percent(tmp_path, cm, mm):
    path = write_object(tmp_path / "a.dcm", speckle(30, 40), SequenceOfUltrasoundRegions=[region(BOX, cm=cm)])
    found = read_frame(path, KEEP, box=(10, 10, 20, 16))
    assert found.mm_per_pixel == pytest.approx(mm, rel=1e-6)
    stretch = abs(cm[0]) / cm[1]  # pixels become square, and the lesion's box with them
    assert found.pixels.shape == (20 * stretch, 32)
    assert found.box == pytest.approx((6, 4 * stretch, 16, 10 * stretch))


@pytest.mark.parametrize(
    ("regions", "field"),
    [
        ([region((0, 0, 9, 9)), region(BOX)], FIELD),  # the larger of two
        ([region(BOX), region((0, 0, 39, 29), form=3, kind=3)], FIELD),  # beside a spectrum
        ([region(BOX), region((0, 0, 39, 29), form=2)], FIELD),  # beside an M-mode trace
        ([region((0, 0, 39, 29), kind=2), region(BOX)], FIELD),  # tissue before colour
        ([region(BOX, kind=2)], FIELD),
        ([region((4, 6, 40, 25))], (slice(6, 26), slice(4, 40))),  # the pixel after the last one is meant
    ],
)
def test_which_region_is_taken(tmp_path, regions, field):
    pixels = speckle(30, 40)
    path = write_object(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=regions)
    np.testing.assert_array_equal(read_frame(path, KEEP).pixels, pixels[field])


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        (None, Reason.NO_REGION),
        ([region((4, 6, 60, 25))], Reason.NO_REGION),  # beyond the picture
        ([region((20, 6, 4, 25))], Reason.NOT_2D),  # inside out
        ([region(BOX, form=3, kind=3)], Reason.NOT_2D),
    ],
)
def test_without_a_region_to_trust_a_picture_is_left_out(tmp_path, regions, expected):
    tags = {"SequenceOfUltrasoundRegions": regions} if regions else {}
    assert reason(write_object(tmp_path / "a.dcm", speckle(30, 40), **tags)) == expected


def test_a_mask_is_cut_along_and_must_fit(tmp_path):
    path = write_object(tmp_path / "a.dcm", speckle(30, 40), SequenceOfUltrasoundRegions=[region(BOX)])
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[10:20, 10:20] = 255
    np.testing.assert_array_equal(read_frame(path, KEEP, mask=mask).mask, mask[FIELD])
    with pytest.raises(UnusableImageError) as caught:
        read_frame(path, KEEP, mask=mask[1:])
    assert caught.value.reason == Reason.MASK_SIZE


def test_colour_doppler_is_taken_apart(tmp_path):
    grey = speckle(60, 80)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    pixels[20:40, 30:50] = (200, 30, 10)
    flow_region = [region((0, 0, 79, 59)), region((20, 10, 60, 50), kind=2)]
    path = write_object(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=flow_region)
    rules = Rules("declared", "mask")
    np.testing.assert_array_equal(read_frame(path, rules, modality="grey").pixels[20:40, 30:50], 10)
    flow = read_frame(path, rules, modality="flow").pixels
    assert (flow[20:40, 30:50] == 190).all()
    assert flow.sum() == 20 * 20 * 190
    assert has_flow(path, rules, number=0)


def test_a_tinted_picture_shows_no_flow(tmp_path):
    tinted = (speckle(60, 80)[..., None] * np.array([1.0, 0.8, 0.3])).astype(np.uint8)
    path = write_object(tmp_path / "a.dcm", tinted, SequenceOfUltrasoundRegions=[region((0, 0, 79, 59))])
    assert not has_flow(path, KEEP, number=0)


def test_every_way_of_being_damaged_is_a_reason(tmp_path):
    whole = write_object(tmp_path / "a.dcm", speckle(30, 40), SequenceOfUltrasoundRegions=[region(BOX)])
    content = whole.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cut in (1, 600, 1100):
            (tmp_path / "cut.dcm").write_bytes(content[:-cut])
            assert reason(tmp_path / "cut.dcm") == Reason.DAMAGED
        for syntax in ("jpeg", "jpeg lossless", "jpeg-ls", "jpeg 2000", "rle"):
            packed = write_object(tmp_path / "p.dcm", speckle(30, 40), syntax=syntax, SequenceOfUltrasoundRegions=[region(BOX)])
            place = packed.read_bytes().index(b"\xe0\x7f\x10\x00") + 60
            packed.write_bytes(packed.read_bytes()[:place] + bytes(200))
            assert reason(packed) in {Reason.DAMAGED, Reason.COMPRESSION}
    (tmp_path / "empty.dcm").write_bytes(b"")
    assert reason(tmp_path / "empty.dcm") == Reason.EMPTY
    assert reason(tmp_path / "none.dcm") == Reason.MISSING


def test_a_syntax_without_a_decoder_is_named_as_such(tmp_path):
    path = write_object(tmp_path / "a.dcm", speckle(30, 40), syntax="jpeg", SequenceOfUltrasoundRegions=[region(BOX)])
    data = dcmread(path)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.203"  # high-throughput JPEG 2000
    data.save_as(path)
    assert reason(path) == Reason.COMPRESSION


def test_values_that_are_none_do_no_harm(tmp_path):
    path = write_object(tmp_path / "a.dcm", speckle(30, 40), PixelSpacing=[0.125, 0.125], NumberOfFrames=1)
    rules = Rules((0, 0, 40, 30), "keep")
    assert read_frame(path, rules).mm_per_pixel == 0.125
    path.write_bytes(path.read_bytes().replace(b"0.125\\0.125", b"wide \\ far  "[:11]))
    assert read_frame(path, rules).mm_per_pixel is None


def test_rules_are_those_of_the_site():
    site = {
        "site": {"name": "a"},
        "cohort": {"table": "t.csv", "patient_id": "id", "label": {"column": "y", "positive": [1], "negative": [0]}},
        "images": {"dicom": "pacs", "view": {"all": "bmode"}, "region": (1, 2, 3, 4), "burned_in": "refuse"},
    }
    assert Rules.of(config_file.validate(site, SiteConfig, where="site.toml").images) == Rules((1, 2, 3, 4), "refuse")
