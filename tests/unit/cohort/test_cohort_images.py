import contextlib
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.cohort.images import Frame, Reason, UnusableImageError, decode_grey, decode_mask, lesion_window, standardize
from shared_model.protocol import Images, View


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def settings(**changes: object) -> Images:
    return Images(**({"views": {"v": View()}, "size": 16} | changes))


def flat(width: int, height: int, level: int = 0) -> Frame:
    return Frame(np.full((height, width), level, dtype=np.uint8))


def reason(content: bytes) -> Reason:
    with pytest.raises(UnusableImageError) as caught:
        decode_grey(content)
    return caught.value.reason


GRADIENT = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_every_mode_of_one_grey_picture_is_that_picture(kind, mode):
    content = saved(Image.fromarray(GRADIENT).convert(mode), kind)
    assert np.abs(np.asarray(decode_grey(content)).astype(int) - GRADIENT).max() <= 1


def test_jpeg_and_bilevel():
    assert (
        np.abs(np.asarray(decode_grey(saved(Image.fromarray(GRADIENT), "JPEG", quality=95))).astype(int) - GRADIENT).max() < 12
    )
    assert set(np.unique(np.asarray(decode_grey(saved(Image.fromarray(GRADIENT > 100)))))) == {0, 255}


@pytest.mark.parametrize(("brightest", "depth"), [(200, 8), (4000, 12), (60000, 16)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_grey_levels_are_scaled_by_the_depth_in_use(kind, brightest, depth):
    levels = np.linspace(0, brightest, 48).astype(np.uint16).reshape(6, 8)
    expected = np.rint(levels / (2**depth - 1) * 255)
    np.testing.assert_array_equal(np.asarray(decode_grey(saved(Image.fromarray(levels), kind))), expected)


def test_what_is_transparent_is_black():
    picture = np.full((4, 4, 4), 255, dtype=np.uint8)
    picture[:2, :, 3] = 0
    grey = np.asarray(decode_grey(saved(Image.fromarray(picture))))
    assert (grey[:2] == 0).all()
    assert (grey[2:] == 255).all()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", Reason.EMPTY),
        (b"\n<!DOCTYPE html><html>log in</html>", Reason.WEB_PAGE),
        (b"\0" * 128 + b"DICM" + b"\0" * 20, Reason.DICOM),
        (b"GIF89a" + b"\0" * 40, Reason.FORMAT),
        (b"plain text", Reason.FORMAT),
        (saved(Image.effect_noise((64, 64), 50))[:2000], Reason.DAMAGED),
        (saved(Image.effect_noise((64, 64), 50), "JPEG")[:700], Reason.DAMAGED),
        (saved(Image.fromarray(GRADIENT.astype(np.float32)), "TIFF"), Reason.PIXEL_TYPE),
    ],
    ids=["empty", "html", "dicom", "gif", "text", "cut png", "cut jpeg", "float"],
)
def test_a_bad_file_says_why(content, expected):
    assert reason(content) is expected


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 12_000, 2**30])
def test_a_decompression_bomb_is_not_unpacked(side):
    content = saved(Image.new("L", (1, 1)))
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    assert reason(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]) is Reason.TOO_LARGE


@given(st.binary(max_size=200), st.integers(0, 150))
def test_no_bytes_whatever_break_the_decoder(noise: bytes, place: int):
    content = saved(Image.fromarray(GRADIENT))
    with contextlib.suppress(UnusableImageError):
        assert decode_grey(content[:place] + noise + content[place + len(noise) :]).mode == "L"


def test_a_mask_is_what_is_above_half_of_its_brightest():
    for high in (1, 255):
        mask = decode_mask(saved(Image.fromarray(np.array([[0, high]], dtype=np.uint8))))
        assert np.asarray(mask).tolist() == [[0, 255]]
    assert np.asarray(decode_mask(saved(Image.new("L", (2, 1))))).tolist() == [[0, 0]]


def test_the_aspect_is_kept_and_the_rest_is_black():
    pixels = standardize(flat(32, 16, 200), settings())
    assert pixels.shape == (1, 16, 16)
    assert pixels.dtype == np.uint8
    expected = np.zeros((16, 16))
    expected[4:12] = 200
    np.testing.assert_array_equal(pixels[0], expected)


def test_shrinking_averages_instead_of_skipping_pixels():
    checkerboard = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(200)
    pixels = standardize(Frame(checkerboard.astype(np.uint8)), settings())
    assert np.abs(pixels[0, 2:-2, 2:-2].astype(int) - 100).max() <= 2


def test_a_lesion_crop_without_context_is_the_box():
    levels = np.zeros((64, 64), dtype=np.uint8)
    levels[20:36, 10:26] = 200
    pixels = standardize(Frame(levels, box=(10, 20, 26, 36)), settings(crop="lesion", context=0.0))
    np.testing.assert_array_equal(pixels[0], np.full((16, 16), 200))


def test_a_lesion_crop_follows_the_mask_where_there_is_no_box():
    levels = np.zeros((64, 64), dtype=np.uint8)
    levels[20:36, 10:26] = 255
    frame = replace(flat(64, 64, 77), mask=levels)
    pixels = standardize(frame, settings(crop="lesion", context=0.5, lesion_mask=True))
    assert pixels.shape == (2, 16, 16)
    assert (pixels[0] == 77).all()
    assert set(np.unique(pixels[1])) == {0, 255}
    assert pixels[1, 4:12, 4:12].all()  # the lesion is the middle half of a crop with half of it as margin
    assert not pixels[1, :3].any()


def test_the_mask_channel_is_the_box_or_else_empty():
    frame = flat(16, 16, 77)
    filled = standardize(replace(frame, box=(2, 4, 6, 10)), settings(lesion_mask=True))[1]
    expected = np.zeros((16, 16))
    expected[4:10, 2:6] = 255
    np.testing.assert_array_equal(filled, expected)
    assert not standardize(frame, settings(lesion_mask=True))[1].any()


@pytest.mark.parametrize(
    ("box", "mask", "expected"),
    [
        (None, None, Reason.NO_BOX),
        (None, flat(16, 16).pixels, Reason.NO_BOX),
        (None, flat(8, 16).pixels, Reason.MASK_SIZE),
        ((20, 0, 30, 10), None, Reason.BOX_OUTSIDE),
        ((8, 0, 8, 10), None, Reason.BOX_OUTSIDE),
        ((9, 0, 3, 10), None, Reason.BOX_OUTSIDE),
    ],
)
def test_a_lesion_crop_needs_a_lesion(box, mask, expected):
    with pytest.raises(UnusableImageError) as caught:
        standardize(Frame(flat(16, 16).pixels, mask=mask, box=box), settings(crop="lesion"))
    assert caught.value.reason is expected


EDGE = st.floats(-50, 150)


@given(st.tuples(EDGE, EDGE, EDGE, EDGE), st.integers(1, 120), st.integers(1, 120), st.floats(0, 4))
def test_a_window_is_within_the_picture_and_holds_the_visible_box(box, width, height, context):
    try:
        left, top, right, bottom = lesion_window(box, (width, height), context=context)
    except UnusableImageError:
        return
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    assert left <= x0 + 1
    assert right >= x1 - 1
    assert top <= y0 + 1
    assert bottom >= y1 - 1
    side = max(x1 - x0, y1 - y0) * (1 + 2 * context)
    assert right - left == min(width, int(np.ceil(side)))
    assert bottom - top == min(height, int(np.ceil(side)))
