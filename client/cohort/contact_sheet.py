"""Pictures before and after standardisation, side by side, for the eyes of the site alone."""

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from client.cohort.images import Box, Frame, Pixels, UnusableImageError, region_shown, standardize
from shared_model import protocol

_GAP = 4  # pixels between pictures
_BACKGROUND = (40, 40, 40)
_LESION = (255, 200, 0)
_SHOWN = (0, 190, 255)


def contact_sheet(frames: Sequence[Frame], settings: protocol.Images, *, columns: int = 4, side: int = 160) -> Image.Image:
    """An RGB picture of ``frames``, each in a tile ``before | after`` of two squares of ``side`` pixels.

    Before: the stored picture, with what the network sees of it outlined in blue and the lesion in yellow. After: the grey
    level that the network sees; empty where the picture is unusable. No text, file name or identifier is drawn, but what is
    burnt into a stored picture shows: the sheet stays at the site.
    """
    rows = -(-len(frames) // columns)
    width, height = 2 * side + _GAP, side
    size = (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _BACKGROUND)
    for place, frame in enumerate(frames):
        left, top = _GAP + place % columns * (width + _GAP), _GAP + place // columns * (height + _GAP)
        before = _before(frame, settings, side)
        sheet.paste(before, (left + (side - before.width) // 2, top + (side - before.height) // 2))
        if (after := _after(frame, settings)) is not None:
            sheet.paste(after.resize((side, side), Image.Resampling.BICUBIC), (left + side + _GAP, top))
    return sheet


def _before(frame: Frame, settings: protocol.Images, side: int) -> Image.Image:
    scale = side / max(frame.size)
    size = max(1, round(frame.size[0] * scale)), max(1, round(frame.size[1] * scale))
    picture = Image.fromarray(frame.pixels).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    draw = ImageDraw.Draw(picture)
    if frame.mask is not None:
        soft = np.asarray(Image.fromarray(frame.mask).resize(size, Image.Resampling.BILINEAR))
        draw.bitmap((0, 0), Image.fromarray(_edge(soft >= 128)), fill=_LESION)
    elif frame.box is not None:
        _outline(draw, frame.box, scale, _LESION)
    with contextlib.suppress(UnusableImageError):
        _outline(draw, region_shown(frame, settings), scale, _SHOWN)
    return picture


def _after(frame: Frame, settings: protocol.Images) -> Image.Image | None:
    try:
        return Image.fromarray(standardize(frame, settings)[0])
    except UnusableImageError:
        return None


def _edge(inside: NDArray[np.bool_]) -> Pixels:
    """The outermost pixels of ``inside``, 255 on 0."""
    within = np.pad(inside, 1)
    inner = within[:-2, 1:-1] & within[2:, 1:-1] & within[1:-1, :-2] & within[1:-1, 2:]
    return np.where(inside & ~inner, np.uint8(255), np.uint8(0))


def _outline(draw: ImageDraw.ImageDraw, box: Box, scale: float, colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = (edge * scale for edge in box)
    draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour)
