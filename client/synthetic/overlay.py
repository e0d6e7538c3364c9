"""The stored picture: the ultrasound in a frame of what a machine prints round it, and measuring crosses in it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from client.synthetic.physics import Scanner

LEFT, TOP, RIGHT, BOTTOM = 26, 30, 54, 20  # of the frame, in pixels
_TEXT, _CROSS = 200, 235
_ARM = 4  # of a cross, in pixels
# Stand-ins for a name in forms and test data of several languages: nobody is called so by accident.
_SURNAMES = ("Muster", "Sample", "Specimen", "Bloggs", "Ejemplo", "Rossi-Prova", "Testperson", "Ukazka")
_GIVEN = ("Ada", "Boris", "Clara", "Dag", "Esra", "Finn", "Greta", "Hugo", "Inga", "Jun", "Kim")


def synthetic_name(number: int) -> tuple[str, str]:
    """Surname and given name of patient ``number``."""
    return _SURNAMES[number % len(_SURNAMES)], _GIVEN[number % len(_GIVEN)]


def frame(pixels: NDArray[np.uint8], *, scanner: Scanner, heading: str) -> NDArray[np.uint8]:
    """``pixels`` ``[S, S]`` or ``[S, S, 3]`` in a frame: ``heading`` above, grey bar, depth marks and settings beside them.

    The ultrasound starts at column ``LEFT`` and row ``TOP`` of the result.
    """
    side = scanner.pixels
    canvas = np.zeros((side + TOP + BOTTOM, side + LEFT + RIGHT, *pixels.shape[2:]), dtype=np.uint8)
    canvas[TOP : TOP + side, LEFT : LEFT + side] = pixels
    canvas[_grey_bar(side)] = np.linspace(255, 0, side // 3).astype(np.uint8).reshape(-1, *(1,) * (pixels.ndim - 1))
    canvas[_depth_marks(scanner)] = _TEXT
    picture = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=10)
    fill = _TEXT if pixels.ndim == 2 else (_TEXT,) * 3
    draw.text((4, 2), heading, fill=fill, font=font)
    draw.text((4, 15), scanner.label, fill=fill, font=font)
    for line, text in enumerate(_settings(scanner, colour=pixels.ndim == 3)):
        draw.text((LEFT + side + 10, TOP + 13 * line), text, fill=fill, font=font)
    return np.asarray(picture)


def with_calipers(pixels: NDArray[np.uint8], box: NDArray[np.int64]) -> NDArray[np.uint8]:
    """``pixels`` with a cross at each end of the longer side of the lesion's ``box``."""
    marked = pixels.copy()
    x0, y0, x1, y1 = box
    x, y = (x0 + x1) // 2, (y0 + y1) // 2
    for column, row in ((x0, y), (x1, y)) if x1 - x0 >= y1 - y0 else ((x, y0), (x, y1)):
        marked[row, max(column - _ARM, 0) : column + _ARM + 1] = _CROSS
        marked[max(row - _ARM, 0) : row + _ARM + 1, min(column, marked.shape[1] - 1)] = _CROSS
    return marked


def _grey_bar(side: int) -> tuple[slice, slice]:
    return slice(TOP + side // 3, TOP + side // 3 + side // 3), slice(8, 14)


def _depth_marks(scanner: Scanner) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A mark for each centimetre right of the ultrasound: rows and columns."""
    centimetres = np.arange(0.0, scanner.field_mm, 10.0)
    rows = TOP + (centimetres / scanner.mm_per_pixel).astype(np.int64)
    columns = LEFT + scanner.pixels + np.arange(2, 6)
    return np.repeat(rows, len(columns)), np.tile(columns, len(rows))


def _settings(scanner: Scanner, *, colour: bool) -> list[str]:
    shown = [f"{scanner.frequency_mhz:g}MHz", f"D{scanner.field_mm / 10.0:.1f}cm", f"DR{scanner.dynamic_range_db:g}"]
    return [*shown, f"G{60.0 + scanner.gain_db:g}", "MI 1.1", *(["PRF 1.1k"] if colour else [])]
