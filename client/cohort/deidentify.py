"""De-identification of pictures at the door: what is not ultrasound goes before anything else sees the pixels.

``keep_only`` drops everything outside the ultrasound region. ``ultrasound_field`` finds the region where an object declares
none. ``burned_in`` finds text, callipers and other graphics within it, and ``paint_over`` replaces them by what surrounds them.
"""

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.cohort.dicom_regions import PixelBox
from client.cohort.images import Pixels

Mask = NDArray[np.bool_]

COLOURED = 48  # difference of the brightest and the darkest channel from which a pixel counts as coloured

_LIT = 16
_TEXTURE = 1.5  # grey levels of standard deviation
_SMALLEST_FIELD = 0.04  # of the picture
_STROKE = 9  # pixels: graphics are thinner
_BRIGHT, _CONTRAST, _STEP = 130, 80, 90  # grey levels
_SHARP_SHARE = 0.7
_LARGEST_SHARE = 0.05  # of the picture, for one piece of graphics
_TINTED = 0.5  # coloured share of the lit pixels from which the whole picture is tinted
_LETTER_HEIGHTS = range(5, 61)
_FEWEST_LETTERS = 3


def keep_only(pixels: Pixels, box: PixelBox) -> Pixels:
    """``pixels`` ``[H, W]`` or ``[H, W, 3]`` of ``box``, copied, so that the rest is freed."""
    x0, y0, x1, y1 = box
    return pixels[max(y0, 0) : y1, max(x0, 0) : x1].copy()


def ultrasound_field(pixels: Pixels) -> tuple[PixelBox, Mask] | None:
    """The largest textured area of ``pixels`` ``[H, W]`` or ``[H, W, 3]``: its box, and which pixels of the box are between
    its edges.

    Text beside the field is not part of it, as it does not touch it; nor are banners, as they are flat. None if the picture
    holds no such area.
    """
    bright = brightness(pixels).astype(np.float32)
    mean = ndimage.uniform_filter(bright, size=_STROKE)
    variance = ndimage.uniform_filter(bright * bright, size=_STROKE) - mean * mean
    text = ndimage.binary_dilation(burned_in(pixels, flow=shows_flow(pixels)), structure=np.ones((_STROKE, _STROKE)))
    textured = (bright > _LIT) & (variance > _TEXTURE**2) & ~text
    spread = ndimage.binary_dilation(textured, structure=np.ones((5, 5)))
    closed = ndimage.binary_erosion(spread, structure=np.ones((5, 5)), border_value=1)
    pieces, count = ndimage.label(ndimage.binary_opening(closed, structure=np.ones((_STROKE, _STROKE))))
    if not count:
        return None
    sizes = np.bincount(pieces.ravel())[1:]
    field = pieces == 1 + int(sizes.argmax())
    if field.sum() < _SMALLEST_FIELD * field.size:
        return None
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    inside = field[box[1] : box[3], box[0] : box[2]]
    return box, _between_edges(inside, axis=0) & _between_edges(inside, axis=1)


def burned_in(pixels: Pixels, *, flow: bool) -> Mask:
    """Text, callipers and other graphics in ``pixels`` ``[H, W]`` or ``[H, W, 3]``, as bool ``[H, W]``.

    Graphics are thin, bright and sharp: brighter than what is around their strokes, from one pixel to the next, where echoes
    are blurred by the beam. Coloured pixels are graphics too, unless the picture shows ``flow`` or is tinted as a whole.
    """
    bright = brightness(pixels)
    around = ndimage.grey_opening(bright, size=(_STROKE, _STROKE))
    thin = (bright >= _BRIGHT) & (bright.astype(np.int16) - around >= _CONTRAST)
    coloured = chroma(pixels) >= COLOURED
    if flow:
        thin &= ~coloured
    step = ndimage.maximum_filter(bright, size=3).astype(np.int16) - ndimage.minimum_filter(bright, size=3)
    pieces, count = ndimage.label(thin, structure=np.ones((3, 3)))
    found = np.zeros(bright.shape, dtype=bool)
    if count:
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        sharp = np.bincount(pieces.ravel(), weights=(step >= _STEP).ravel(), minlength=count + 1)
        graphics = (sizes >= 3) & (sharp >= _SHARP_SHARE * sizes) & (sizes <= _LARGEST_SHARE * bright.size)
        graphics[0] = False
        found = graphics[pieces]
    if not flow and coloured.sum() < _TINTED * max(int((bright > _LIT).sum()), 1):
        found |= coloured
    return found


def paint_over(grey: Pixels, graphics: Mask) -> Pixels:
    """``grey`` ``[H, W]`` without ``graphics``: filled from the surroundings, whole lines of text as one block."""
    if not graphics.any():
        return grey
    hidden = ndimage.binary_dilation(graphics, structure=np.ones((5, 5))) | _text_blocks(graphics)
    filled = np.where(hidden, 0.0, grey.astype(np.float32))
    missing = hidden.copy()
    for window in (9, 33, 129):
        known = ndimage.uniform_filter((~hidden).astype(np.float32), size=window, mode="nearest")
        mean = ndimage.uniform_filter(np.where(hidden, 0.0, grey.astype(np.float32)), size=window, mode="nearest")
        reached = missing & (known > 1e-3)
        filled[reached] = mean[reached] / known[reached]
        missing &= ~reached
    return np.rint(filled).clip(0, 255).astype(np.uint8)


def brightness(pixels: Pixels) -> Pixels:
    """The brightest channel of ``pixels`` ``[H, W]`` or ``[H, W, 3]``, as ``[H, W]``."""
    return pixels if pixels.ndim == 2 else cast(Pixels, pixels.max(axis=2))


def chroma(pixels: Pixels) -> Pixels:
    """How coloured each pixel of ``[H, W]`` or ``[H, W, 3]`` is: the brightest less the darkest channel, 0 for grey."""
    return np.zeros_like(pixels) if pixels.ndim == 2 else cast(Pixels, pixels.max(axis=2) - pixels.min(axis=2))


def shows_flow(pixels: Pixels) -> bool:
    """Whether ``pixels`` hold patches of colour that are no lines or letters, in a picture not tinted."""
    coloured = chroma(pixels) >= COLOURED
    lit = max(int((brightness(pixels) > _LIT).sum()), 1)
    patches = ndimage.binary_opening(coloured, structure=np.ones((5, 5)))
    return bool(0.002 * lit <= patches.sum() and coloured.sum() < _TINTED * lit)


def _between_edges(field: Mask, *, axis: int) -> Mask:
    after = np.logical_or.accumulate(field, axis=axis)
    before = np.flip(np.logical_or.accumulate(np.flip(field, axis=axis), axis=axis), axis=axis)
    return after & before


def _text_blocks(graphics: Mask) -> Mask:
    """The boxes of lines of text: pieces as high as letters, side by side."""
    letters, _ = ndimage.label(graphics, structure=np.ones((3, 3)))
    blocks = np.zeros_like(graphics)
    lines, _ = ndimage.label(ndimage.binary_dilation(graphics, structure=np.ones((3, 21))))
    heights = {
        number: piece[0].stop - piece[0].start
        for number, piece in enumerate(ndimage.find_objects(letters), 1)
        if piece[0].stop - piece[0].start in _LETTER_HEIGHTS
    }
    for line in ndimage.find_objects(lines):
        own = [heights[number] for number in np.unique(letters[line]).tolist() if number in heights]
        if len(own) >= _FEWEST_LETTERS and line[0].stop - line[0].start <= 3 * np.median(own):
            blocks[line] = True
    return blocks
