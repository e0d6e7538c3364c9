"""A picture with what the model reacts to laid over it, and the lesion's outline, as a PNG within the page."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float64]
SIDE = 288  # pixels of the page's pictures
RAISES, LOWERS = (214, 69, 32), (33, 102, 172)  # also told apart by people who see no red or green
_OUTLINE = (255, 225, 60)
_STRONGEST = 0.62  # opacity of the strongest reaction
_FAINTEST = 0.12  # of the strongest: what is below is left as it is


def plain(grey: Floats) -> str:
    """``grey`` ``[H, W]`` in 0..1 as a data URI."""
    return _uri(np.repeat(_large(grey, smooth=True)[:, :, None], 3, axis=2))


def overlaid(grey: Floats, reaction: Floats, outline: NDArray[np.bool_], *, strongest: float) -> str:
    """``grey`` with ``reaction`` ``[H, W]`` in logits over it, opaque in proportion to ``strongest``, and the ``outline``."""
    base = np.repeat(_large(grey, smooth=True)[:, :, None], 3, axis=2)
    scaled = np.clip(_large(reaction, smooth=True) / max(strongest, 1e-9), -1.0, 1.0)
    strength = np.where(np.abs(scaled) < _FAINTEST, 0.0, np.abs(scaled))[:, :, None] * _STRONGEST
    colour = np.where(scaled[:, :, None] > 0.0, np.array(RAISES) / 255.0, np.array(LOWERS) / 255.0)
    mixed = base * (1.0 - strength) + colour * strength
    inside = _large(outline.astype(np.float64), smooth=False) > 0.5
    edge = inside & ~ndimage.binary_erosion(inside, iterations=2)
    mixed[edge] = np.array(_OUTLINE) / 255.0
    return _uri(mixed)


def _large(levels: Floats, *, smooth: bool) -> Floats:
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    picture = Image.fromarray(levels.astype(np.float32)).resize((SIDE, SIDE), how)
    return np.asarray(picture, dtype=np.float64)


def _uri(levels: Floats) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(np.clip(levels, 0.0, 1.0) * 255.0).astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
