"""One frame of a DICOM ultrasound object to grey levels, with everything outside the ultrasound region dropped.

Only the tags named here are read of an object, and none is kept.
"""

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from client.cohort import deidentify, dicom_lossless
from client.cohort.dicom_regions import Declared, PixelBox, declared
from client.cohort.images import MAX_PIXELS, Box, Frame, Pixels, Reason, UnusableImageError
from client.site_config import Images

REGION_TAGS = ("Rows", "Columns", "PixelSpacing", "SequenceOfUltrasoundRegions")
_FRAME_TAGS = (*REGION_TAGS, "BurnedInAnnotation", "NumberOfFrames", "PhotometricInterpretation", "BitsAllocated")

_PIXEL_TAGS = (
    *("SamplesPerPixel", "PlanarConfiguration", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *(f"{name}PaletteColorLookupTable{part}" for name in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
)
_SQUARE = 0.01  # sides of a pixel that differ by less count as equal

Modality = Literal["grey", "flow", "luminance"]

_install_lock = threading.Lock()


@dataclass(frozen=True)
class Rules:
    """What a site does about regions and burnt-in graphics; the keys of ``[images]`` of the same names."""

    region: Literal["detect", "declared"] | PixelBox
    burned_in: Literal["mask", "refuse", "keep"]

    @classmethod
    def of(cls, config: Images) -> "Rules":
        """The rules in ``config``."""
        return cls(config.region, config.burned_in)


def read_frame(
    path: Path,
    rules: Rules,
    *,
    number: int = 0,
    modality: Modality = "luminance",
    mask: Pixels | None = None,
    box: Box | None = None,
) -> Frame:
    """Frame ``number`` (from 0) of the object at ``path``, less everything outside its ultrasound region.

    ``modality`` is what becomes of colour Doppler: ``grey`` levels without the colour, or the ``flow`` alone (how coloured each
    pixel is, 0 where there is none); ``luminance`` turns colours into grey levels as in any other picture. ``mask`` and
    ``box`` are the lesion in pixels of the stored picture; they are cut along.

    Raises:
        UnusableImageError: no pixels that can be decoded, no ultrasound region, or burnt-in text where ``rules`` forbid it.
    """
    says, pixels = _decoded(path, number)
    if mask is not None and mask.shape != pixels.shape[:2]:
        raise UnusableImageError(Reason.MASK_SIZE)
    if says.other_regions_only:
        raise UnusableImageError(Reason.NOT_2D)
    (x0, y0, x1, y1), pixels = _only_ultrasound(pixels, says, rules)
    levels = _as(modality, pixels)
    if rules.burned_in != "keep":
        graphics = deidentify.burned_in(pixels, flow=says.flow or deidentify.shows_flow(pixels))
        if rules.burned_in == "refuse" and graphics.any():
            raise UnusableImageError(Reason.BURNED_IN)
        levels = deidentify.paint_over(levels, graphics)
    cut_mask = None if mask is None else mask[y0:y1, x0:x1]
    cut_box = None if box is None else (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)
    return _with_square_pixels(Frame(levels, mask=cut_mask, box=cut_box), says.mm_per_pixel)


def has_flow(path: Path, rules: Rules, *, number: int) -> bool:
    """Whether colour Doppler is seen in the ultrasound region of a frame; False if it cannot be read."""
    try:
        says, pixels = _decoded(path, number)
        _, pixels = _only_ultrasound(pixels, says, rules)
    except UnusableImageError:
        return False
    return deidentify.shows_flow(pixels)


def _only_ultrasound(pixels: Pixels, says: Declared, rules: Rules) -> tuple[PixelBox, Pixels]:
    """The ultrasound region and its pixels; from here on nothing else of the picture exists."""
    height, width = pixels.shape[:2]
    if says.field is not None:
        return says.field, deidentify.keep_only(pixels, says.field)
    if isinstance(rules.region, tuple):
        x0, y0, x1, y1 = rules.region
        box = x0, y0, min(x1, width), min(y1, height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise UnusableImageError(Reason.NO_REGION)
        return box, deidentify.keep_only(pixels, box)
    if rules.region == "declared":
        raise UnusableImageError(Reason.NO_REGION)
    if says.burned_in and rules.burned_in != "keep":
        raise UnusableImageError(Reason.BURNED_IN)
    left, top, right, bottom = says.cut or (0, 0, width, height)
    found = deidentify.ultrasound_field(pixels[top:bottom, left:right])
    if found is None:
        raise UnusableImageError(Reason.NO_REGION)
    (x0, y0, x1, y1), inside = found
    box = left + x0, top + y0, left + x1, top + y1
    kept = deidentify.keep_only(pixels, box)
    kept[~inside] = 0
    return box, kept


def _with_square_pixels(frame: Frame, mm_per_pixel: tuple[float, float] | None) -> Frame:
    """``frame`` of pixels (row, column) millimetres apart, resampled to the finer of the two where they differ."""
    if mm_per_pixel is None:
        return frame
    side = min(mm_per_pixel)
    down, across = (length / side for length in mm_per_pixel)
    if max(down, across) - 1.0 < _SQUARE:
        return replace(frame, mm_per_pixel=side)
    height, width = frame.pixels.shape
    size = round(width * across), round(height * down)
    pixels = np.asarray(Image.fromarray(frame.pixels).resize(size, Image.Resampling.BILINEAR))
    mask = frame.mask
    if mask is not None:
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    box = frame.box
    if box is not None:
        box = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    return Frame(pixels, mask=mask, box=box, mm_per_pixel=side)


def _as(modality: str, pixels: Pixels) -> Pixels:
    """``pixels`` as grey levels ``[H, W]``.

    Without the colour, a coloured pixel is as bright as its darkest channel: pure colour is black, as a vessel is in B-mode.
    """
    if pixels.ndim == 2:
        return np.zeros_like(pixels) if modality == "flow" else pixels
    luminance = np.asarray(Image.fromarray(pixels).convert("L"))
    if modality == "luminance":
        return luminance
    colour = deidentify.chroma(pixels)
    if modality == "flow":
        return np.where(colour >= deidentify.COLOURED, colour, np.uint8(0))
    return np.where(colour >= deidentify.COLOURED, pixels.min(axis=2), luminance)


def _decoded(path: Path, number: int) -> tuple[Declared, Pixels]:
    """What the object says of its picture, and the frame as uint8 ``[H, W]`` or ``[H, W, 3]`` (RGB)."""
    with _install_lock:
        dicom_lossless.install()
    try:
        facts = dcmread(path, stop_before_pixels=True, specific_tags=list(_FRAME_TAGS))
        if int(facts.get("Rows") or 0) * int(facts.get("Columns") or 0) > MAX_PIXELS:
            raise UnusableImageError(Reason.TOO_LARGE)
        syntax = facts.file_meta.TransferSyntaxUID
        if not _decodable(syntax):
            raise UnusableImageError(Reason.COMPRESSION)
        described = Dataset()
        # Of a deflated file, which is compressed as a whole, pydicom finds no frame by itself.
        source = dcmread(path, specific_tags=[*_FRAME_TAGS, *_PIXEL_TAGS]) if syntax.is_deflated else path
        levels = pixel_array(source, ds_out=described, index=number)
        return declared(facts), _eight_bits(levels, described)
    except UnusableImageError:
        raise
    except FileNotFoundError:
        raise UnusableImageError(Reason.MISSING) from None
    except InvalidDicomError:
        raise UnusableImageError(Reason.FORMAT if path.stat().st_size else Reason.EMPTY) from None
    except OSError as error:
        raise UnusableImageError(Reason.UNREADABLE if error.errno else Reason.DAMAGED) from None
    except Exception:  # a decoder fed with damaged bytes raises nearly anything, and no file may stop a study
        raise UnusableImageError(Reason.DAMAGED) from None


def _decodable(syntax: UID) -> bool:
    if not syntax.is_encapsulated:
        return True
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _eight_bits(levels: NDArray[np.generic], described: Dataset) -> Pixels:
    """``levels`` as uint8: palettes applied, deep levels scaled by the bits stored, inverted ones (MONOCHROME1) turned."""
    kind = str(described.get("PhotometricInterpretation") or "")
    if not np.issubdtype(levels.dtype, np.unsignedinteger) or levels.ndim not in {2, 3}:
        raise UnusableImageError(Reason.PIXEL_TYPE)
    if kind == "PALETTE COLOR":
        coloured = apply_color_lut(levels, described)[..., :3]
        return cast(Pixels, (coloured >> 8).astype(np.uint8) if coloured.dtype == np.uint16 else coloured.astype(np.uint8))
    depth = int(described.get("BitsStored") or 8)
    if depth != 8:
        levels = np.rint(np.asarray(levels, dtype=np.float64) * (255.0 / (2**depth - 1))).clip(0, 255)
    pixels = np.asarray(levels).astype(np.uint8)
    return cast(Pixels, 255 - pixels if kind == "MONOCHROME1" else pixels)
