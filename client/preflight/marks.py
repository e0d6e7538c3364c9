"""Text, scales and logos round the scan: bright marks on black, where an ultrasound picture has nothing to show."""

import numpy as np
from numpy.typing import NDArray

from client.preflight.checks import Check, Problem, check_of

_GRID = 16  # blocks of a side
_BLACK, _BRIGHT = 3, 100  # grey levels
_MOSTLY_BLACK = 0.6  # share of a block's pixels
_LEAST_BRIGHT, _MOST_BRIGHT = 0.01, 0.35
_BLOCKS_OF_TEXT = 5  # fewer may be bright specks in a shadow
_NOTABLE = 0.2  # share of pictures
_SOME = (0.02, 0.98)  # a block with marks on some pictures only was typed, or placed by hand


def marked_blocks(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Blocks that are black but for thin bright marks: uint8 ``[M, H, W]`` -> bool ``[M, 16, 16]``."""
    size = grey.shape[1] // _GRID
    cut = grey[:, : size * _GRID, : size * _GRID]
    blocks = cut.reshape(len(grey), _GRID, size, _GRID, size).swapaxes(2, 3)  # [M, 16, 16, h, w]
    black, bright = (blocks <= _BLACK).mean(axis=(3, 4)), (blocks >= _BRIGHT).mean(axis=(3, 4))
    marked: NDArray[np.bool_] = (black >= _MOSTLY_BLACK) & (bright >= _LEAST_BRIGHT) & (bright <= _MOST_BRIGHT)
    return marked


def text_check(grey: NDArray[np.uint8]) -> Check:
    """How many pictures carry marks round the scan; whether these tell the outcome is asked of the borders."""
    title = "No text on pictures"
    marked = marked_blocks(grey)
    share = float((marked.sum(axis=(1, 2)) >= _BLOCKS_OF_TEXT).mean())
    often = marked.mean(axis=0)  # [16, 16]
    typed = marked & ((often > _SOME[0]) & (often < _SOME[1]))
    differing = float((typed.sum(axis=(1, 2)) >= _BLOCKS_OF_TEXT).mean())
    found = f"{share:.0%} of pictures have marks on black round the scan, {differing:.0%} marks that others lack"
    if share < _NOTABLE:
        return check_of("text", title, found)
    what = f"text, scales or logos on {share:.0%} of pictures; what differs from picture to picture may be typed findings"
    remedy = "look at the contact sheet for names, scores and results; crop to the lesion (images.roi), or to the scan"
    return check_of("text", title, found, warnings=[Problem(what, remedy)])
