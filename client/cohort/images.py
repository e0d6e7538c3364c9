"""One picture to one tensor: decoding that no file can break, and the crop, padding and size that a protocol asks for."""

import io
import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shared_model import protocol
from shared_model.errors import ConsiliumError

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the stored picture
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
    COMPRESSION = "compressed in a way that cannot be decoded here"
    NO_REGION = "no ultrasound region is declared, or found"
    NOT_2D = "only spectral, M-mode or graphic regions are declared"
    BURNED_IN = "text or graphics are burnt into it"


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


def standardize(picture: Image.Image, settings: protocol.Images, *, box: Box | None, mask: Image.Image | None) -> Pixels:
    """``picture`` (mode ``L``) as uint8 ``[C, H, W]``: grey level, then the lesion as 0 or 255 if the protocol asks for it.

    The lesion is ``mask``, or else the filled ``box``, or else unknown (0 everywhere). Its crop follows ``box``, or else
    the bounding box of ``mask``. The aspect ratio is kept; what is missing to a square is black.

    Raises:
        UnusableImageError: a lesion crop is asked for without a lesion, or outside the picture; a mask of another size.
    """
    if mask is not None and mask.size != picture.size:
        raise UnusableImageError(Reason.MASK_SIZE)
    window = (0, 0, *picture.size)
    if settings.crop == "lesion":
        lesion = box or (mask.getbbox() if mask is not None else None)
        if lesion is None:
            raise UnusableImageError(Reason.NO_BOX)
        window = lesion_window(lesion, picture.size, context=settings.context)
    channels = [_fitted(picture.crop(window), settings.size)]
    if settings.lesion_mask:
        outline = mask or _filled(box, picture.size)
        soft = _fitted(outline.crop(window), settings.size)
        channels.append(np.where(soft >= 128, np.uint8(255), np.uint8(0)))
    return np.stack(channels)  # [C, H, W]


def lesion_window(box: Box, size: tuple[int, int], *, context: float) -> tuple[int, int, int, int]:
    """The window round a lesion in a picture of ``size`` (width, height), in whole pixels.

    The box grows on each side by ``context`` times its extent, then its shorter side grows to a square; the square is
    moved into the picture, and cut where it is larger than the picture.

    >>> lesion_window((40, 40, 60, 50), (100, 100), context=0.5)
    (30, 25, 70, 65)

    Raises:
        UnusableImageError: nothing of the box is in the picture.
    """
    x0, y0, x1, y1 = _within(box, size)
    side = math.ceil(max(x1 - x0, y1 - y0) * (1.0 + 2.0 * context))
    left, right = _span((x0 + x1) / 2.0, side, size[0])
    top, bottom = _span((y0 + y1) / 2.0, side, size[1])
    return left, top, right, bottom


def _within(box: Box, size: tuple[int, int]) -> Box:
    width, height = size
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    if not (x1 - x0 >= 1.0 and y1 - y0 >= 1.0):
        raise UnusableImageError(Reason.BOX_OUTSIDE)
    return x0, y0, x1, y1


def _span(center: float, side: int, extent: int) -> tuple[int, int]:
    if side >= extent:
        return 0, extent
    start = min(max(round(center - side / 2.0), 0), extent - side)
    return start, start + side


def _filled(box: Box | None, size: tuple[int, int]) -> Image.Image:
    levels = np.zeros((size[1], size[0]), dtype=np.uint8)
    if box is not None:
        x0, y0, x1, y1 = (round(edge) for edge in _within(box, size))
        levels[y0:y1, x0:x1] = 255
    return Image.fromarray(levels)


def _fitted(picture: Image.Image, size: int) -> Pixels:
    """``picture`` scaled (antialiased) to fit a black square of ``size``, and centred in it."""
    scale = size / max(picture.size)
    width, height = (max(1, round(extent * scale)) for extent in picture.size)
    scaled = picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BILINEAR)
    square = Image.new("L", (size, size))
    square.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return np.array(square, dtype=np.uint8)


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
