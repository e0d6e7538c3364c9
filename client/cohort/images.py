"""One picture to one tensor: decoding that no file can break, and the field, grey levels, crop and scale that a protocol
asks for."""

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shared_model import protocol
from shared_model.errors import ConsiliumError
from shared_model.imaging import find_field, harmonize

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the stored picture
Window = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]

MAX_PIXELS = 64 * 2**20
_FORMATS = ("PNG", "JPEG", "TIFF")
_BIT_DEPTHS = (8, 12, 16)


class Reason(StrEnum):
    """Why a picture is left out. The order is part of the tensor cache: add at the end."""

    NOT_NAMED = "the table names no file"
    MISSING = "no such file"
    UNREADABLE = "cannot be opened"
    EMPTY = "empty file"
    WEB_PAGE = "a web page (HTML), not an image"
    DICOM = "a DICOM file, not PNG, JPEG or TIFF"
    FORMAT = "not PNG, JPEG or TIFF"
    DAMAGED = "damaged or truncated"
    TOO_LARGE = "more than 64 million pixels"
    PIXEL_TYPE = "pixels are no 8- or 16-bit grey levels or colours"
    NO_BOX = "no lesion box"
    BOX_OUTSIDE = "the lesion box is empty or outside the picture"
    MASK = "its lesion mask cannot be read"
    MASK_SIZE = "its lesion mask has another size"
    FIELD = "the field of view is empty or outside the picture"
    COMPRESSION = "compressed in a way that cannot be decoded here"
    NO_REGION = "no ultrasound region is declared, or found"
    NOT_2D = "only spectral, M-mode or graphic regions are declared"
    BURNED_IN = "text or graphics are burnt into it"


_REMEDIES = {
    "check images.file and images.folder": {Reason.NOT_NAMED, Reason.MISSING},
    "check images.roi and images.mask": {Reason.NO_BOX, Reason.BOX_OUTSIDE, Reason.MASK, Reason.MASK_SIZE},
    "name the folder of the DICOM files in images.dicom": {Reason.DICOM},
    "see images.region and images.burned_in": {Reason.FIELD, Reason.NO_REGION, Reason.BURNED_IN},
    "nothing, where such pictures are not meant": {Reason.NOT_2D},
    "convert them": {Reason.COMPRESSION, Reason.PIXEL_TYPE, Reason.TOO_LARGE},
}


def remedies(reasons: Iterable[str]) -> str:
    """What to do about pictures left out for ``reasons``; those without a remedy of their own have to be exported again."""
    held = set(reasons)
    known = {reason for cured in _REMEDIES.values() for reason in cured}
    others = f" ({', '.join(sorted(held - known))})" if held & known else ""
    told = [f"export these files again{others}"] if held - known else []
    return "; ".join([*told, *(remedy for remedy, cured in _REMEDIES.items() if held & cured)])


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded picture and what is known of it.

    ``pixels`` are grey levels, uint8 ``[H, W]``; ``mask`` is the lesion, uint8 ``[H, W]`` of 0 and 255; ``box`` the lesion's
    box and ``field`` the field of view, both in pixels of the whole picture. Pixels are square, of ``mm_per_pixel`` mm.
    ``view`` is the protocol's name for it; None is taken for B-mode.
    """

    pixels: Pixels
    mask: Pixels | None = None
    box: Box | None = None
    field: Box | None = None
    mm_per_pixel: float | None = None
    view: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


class UnusableImageError(ConsiliumError):
    """A picture that cannot become a tensor."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)


def decode_grey(content: bytes) -> Image.Image:
    """The picture in ``content`` as 8-bit grey (mode ``L``): colours by luminance, transparency over black, 12 and 16 bits
    scaled by the depth that holds the brightest pixel.

    Raises:
        UnusableImageError: ``content`` is no whole PNG, JPEG or TIFF within limits.
    """
    if not content:
        raise UnusableImageError(Reason.EMPTY)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UnusableImageError(Reason.TOO_LARGE)
            return _grey(picture)
    except UnusableImageError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError(_what_else(content)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImageError(Reason.TOO_LARGE) from None
    except Exception:  # a decoder fed with damaged bytes raises nearly anything, and no file may stop a study
        raise UnusableImageError(Reason.DAMAGED) from None


def decode_mask(content: bytes) -> Image.Image:
    """A lesion mask as mode ``L`` of 0 and 255; its foreground is whatever is above half of its brightest level.

    Raises:
        UnusableImageError: as ``decode_grey``.
    """
    levels = np.asarray(decode_grey(content))
    return Image.fromarray(np.where(levels > levels.max() / 2, np.uint8(255), np.uint8(0)))


def standardize(frame: Frame, settings: protocol.Images) -> Pixels:
    """``frame`` as uint8 ``[C, S, S]``: grey level, then the lesion as 0 or 255 if the protocol asks for it.

    The lesion is the frame's ``mask``, or else its filled ``box``, or else unknown (0 everywhere). Its crop follows the
    ``box``, or else the bounding box of the ``mask``. The aspect ratio is kept; what is missing to a square is black. A
    frame without a scale is fitted to the square, whatever physical size the protocol asks for.

    Raises:
        UnusableImageError: a lesion crop is asked for without a lesion, or outside the picture; a mask of another size; a
            field of view outside the picture.
    """
    if frame.mask is not None and frame.mask.shape != frame.pixels.shape:
        raise UnusableImageError(Reason.MASK_SIZE)
    scan = _harmonized(_cut(frame, _field(frame, settings)), settings)
    window = _window(scan, settings)
    scale = scan.mm_per_pixel / settings.mm_per_pixel if scan.mm_per_pixel and settings.mm_per_pixel else None
    channels = [_square(scan.pixels, window, scale=scale, size=settings.size)]
    if settings.lesion_mask:
        soft = _square(_outline(scan), window, scale=scale, size=settings.size)
        channels.append(np.where(soft >= 128, np.uint8(255), np.uint8(0)))
    return np.stack(channels)  # [C, S, S]


def region_shown(frame: Frame, settings: protocol.Images) -> Window:
    """What of ``frame`` the network sees: x0, y0, x1, y1 in pixels of the whole picture.

    Raises:
        UnusableImageError: as ``standardize``.
    """
    left, top, right, bottom = _field(frame, settings)
    window = _window(_cut(frame, (left, top, right, bottom)), settings)
    return left + window[0], top + window[1], left + window[2], top + window[3]


def lesion_window(box: Box, size: tuple[int, int], *, context: float) -> Window:
    """The window round a lesion in a picture of ``size`` (width, height), in whole pixels.

    The box grows on each side by ``context`` times its extent, then its shorter side grows to a square; the square is
    moved into the picture, and cut where it is larger than the picture.

    >>> lesion_window((40, 40, 60, 50), (100, 100), context=0.5)
    (30, 25, 70, 65)

    Raises:
        UnusableImageError: nothing of the box is in the picture.
    """
    return square_window(box, size, side=_extent(_within(box, size)) * (1.0 + 2.0 * context))


def square_window(box: Box, size: tuple[int, int], *, side: float) -> Window:
    """The square of ``side`` pixels round the middle of ``box``, moved into a picture of ``size`` (width, height) and cut
    where it is larger.

    Raises:
        UnusableImageError: nothing of the box is in the picture.
    """
    x0, y0, x1, y1 = _within(box, size)
    left, right = _span((x0 + x1) / 2.0, math.ceil(side), size[0])
    top, bottom = _span((y0 + y1) / 2.0, math.ceil(side), size[1])
    return left, top, right, bottom


def _field(frame: Frame, settings: protocol.Images) -> Window:
    """The field of view as stated, or detected if the protocol asks for it, or else the whole picture."""
    field: Box = (0, 0, *frame.size)
    if frame.field is not None:
        field = _within(frame.field, frame.size, otherwise=Reason.FIELD)
    elif settings.field == "detect":
        field = _with_lesion(find_field(frame.pixels).box, frame)
    return math.floor(field[0]), math.floor(field[1]), math.ceil(field[2]), math.ceil(field[3])


def _cut(frame: Frame, window: Window) -> Frame:
    left, top, right, bottom = window
    box = frame.box and (frame.box[0] - left, frame.box[1] - top, frame.box[2] - left, frame.box[3] - top)
    mask = None if frame.mask is None else frame.mask[top:bottom, left:right]
    return replace(frame, pixels=frame.pixels[top:bottom, left:right], mask=mask, box=box, field=None)


def _harmonized(frame: Frame, settings: protocol.Images) -> Frame:
    intensity = settings.intensity_of(frame.view)
    if intensity == "none":
        return frame
    # Within the field of view, too, there may be a black surround: beside a sector.
    inside = find_field(frame.pixels).inside
    return replace(frame, pixels=harmonize(frame.pixels, intensity=intensity, inside=inside))


def _with_lesion(field: Window, frame: Frame) -> Box:
    """``field``, or more where the lesion goes on: detection may miss what is too dark to tell from the surround."""
    if (lesion := _lesion(frame)) is None:
        return field
    x0, y0, x1, y1 = _within(lesion, frame.size)
    return min(field[0], x0), min(field[1], y0), max(field[2], x1), max(field[3], y1)


def _window(frame: Frame, settings: protocol.Images) -> Window:
    """What is shown of ``frame``, which is the field of view."""
    middle = _lesion(frame) if settings.crop == "lesion" else (0, 0, *frame.size)
    if middle is None:
        raise UnusableImageError(Reason.NO_BOX)
    if settings.mm_per_pixel is not None and frame.mm_per_pixel is not None:
        return square_window(middle, frame.size, side=settings.size * settings.mm_per_pixel / frame.mm_per_pixel)
    if settings.crop == "whole":
        return 0, 0, *frame.size
    if settings.context_mm is not None and frame.mm_per_pixel is not None:
        margin = settings.context_mm / frame.mm_per_pixel
        return square_window(middle, frame.size, side=_extent(_within(middle, frame.size)) + 2.0 * margin)
    return lesion_window(middle, frame.size, context=settings.context)


def _lesion(frame: Frame) -> Box | None:
    if frame.box is not None or frame.mask is None:
        return frame.box
    return Image.fromarray(frame.mask).getbbox()


def _extent(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _within(box: Box, size: tuple[int, int], *, otherwise: Reason = Reason.BOX_OUTSIDE) -> Box:
    width, height = size
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    if not (x1 - x0 >= 1.0 and y1 - y0 >= 1.0):
        raise UnusableImageError(otherwise)
    return x0, y0, x1, y1


def _span(center: float, side: int, extent: int) -> tuple[int, int]:
    if side >= extent:
        return 0, extent
    start = min(max(round(center - side / 2.0), 0), extent - side)
    return start, start + side


def _outline(frame: Frame) -> Pixels:
    if frame.mask is not None:
        return frame.mask
    levels = np.zeros_like(frame.pixels)
    if frame.box is not None:
        x0, y0, x1, y1 = (round(edge) for edge in _within(frame.box, frame.size))
        levels[y0:y1, x0:x1] = 255
    return levels


def _square(levels: Pixels, window: Window, *, scale: float | None, size: int) -> Pixels:
    """What ``window`` shows of ``levels``, magnified by ``scale`` (None: to fit), in the middle of a square of ``size``."""
    left, top, right, bottom = window
    picture = Image.fromarray(levels[top:bottom, left:right])
    resized = _fitted(picture, size) if scale is None else _scaled(picture, scale, size)
    square = Image.new("L", (size, size))
    square.paste(resized, ((size - resized.width) // 2, (size - resized.height) // 2))
    return np.array(square, dtype=np.uint8)


def _fitted(picture: Image.Image, size: int) -> Image.Image:
    """``picture`` scaled (antialiased) so that its longer side is ``size``."""
    scale = size / max(picture.size)
    width, height = (max(1, round(extent * scale)) for extent in picture.size)
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BILINEAR)


def _scaled(picture: Image.Image, scale: float, size: int) -> Image.Image:
    """The middle of ``picture`` scaled (antialiased) by exactly ``scale``, at most ``size`` pixels either way."""
    width, height = (min(size, max(1, math.floor(extent * scale + 1e-6))) for extent in picture.size)
    # What is no whole pixel of the result is cut from the edges, for rounding would change the scale.
    across, down = max(0.0, picture.width - width / scale) / 2.0, max(0.0, picture.height - height / scale) / 2.0
    middle = (across, down, picture.width - across, picture.height - down)
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=middle)


def _grey(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return _from_deep(np.asarray(picture))
    if picture.mode in {"LA", "La", "RGBa", "PA", "RGBA"} or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        black = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, coloured).convert("L")
    if picture.mode in {"P", "CMYK", "YCbCr", "LAB"}:
        return picture.convert("RGB").convert("L")
    if picture.mode in {"1", "L", "RGB", "RGBX"}:
        return picture.convert("L")
    raise UnusableImageError(Reason.PIXEL_TYPE)


def _from_deep(levels: NDArray[np.integer]) -> Image.Image:
    if levels.min() < 0 or levels.max() >= 2**16:
        raise UnusableImageError(Reason.PIXEL_TYPE)
    depth = next(bits for bits in _BIT_DEPTHS if levels.max() < 2**bits)
    return Image.fromarray(np.rint(levels * (255.0 / (2**depth - 1))).astype(np.uint8))


def _what_else(content: bytes) -> Reason:
    start = content[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml")):
        return Reason.WEB_PAGE
    return Reason.DICOM if content[128:132] == b"DICM" else Reason.FORMAT
