"""One frame of a DICOM ultrasound object to grey levels, with everything outside the ultrasound region dropped.

Only the tags named here are read of an object, and none is kept.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, pixel_array

from client.cohort import deidentify, dicom_lossless
from client.cohort.dicom_regions import Declared, PixelBox, declared
from client.cohort.images import MAX_PIXELS, Box, Pixels, Reason, UnusableImageError
from client.site_config import Images

REGION_TAGS = ("Rows", "Columns", "PixelSpacing", "SequenceOfUltrasoundRegions")
_FRAME_TAGS = (*REGION_TAGS, "BurnedInAnnotation", "NumberOfFrames", "PhotometricInterpretation", "BitsAllocated")

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


@dataclass(frozen=True)
class DecodedPicture:
    """One picture as the network may see it.

    Attributes:
        pixels: uint8 ``[H, W]``. Of a colour Doppler picture either the ``grey`` levels without the colour, or the ``flow``:
            how coloured each pixel is, 0 where there is none.
        origin: x and y of ``pixels`` in the stored picture.
        stored: width and height of the stored picture.
        mm_per_pixel: (row, column), None where the object declares none.
        modality: see ``pixels``; ``luminance`` where colours were turned into grey levels as in any other picture.
    """

    pixels: Pixels
    origin: tuple[int, int]
    stored: tuple[int, int]
    mm_per_pixel: tuple[float, float] | None
    modality: Literal["grey", "flow", "luminance"]

    def box(self, stored: Box | None) -> Box | None:
        """``stored``, a box in pixels of the stored picture, in those of ``pixels``."""
        if stored is None:
            return None
        x, y = self.origin
        return stored[0] - x, stored[1] - y, stored[2] - x, stored[3] - y

    def mask(self, stored: Image.Image | None) -> Image.Image | None:
        """The part of ``stored``, a lesion mask of the stored picture, that belongs to ``pixels``.

        Raises:
            UnusableImageError: the mask has another size than the picture.
        """
        if stored is None:
            return None
        if stored.size != self.stored:
            raise UnusableImageError(Reason.MASK_SIZE)
        height, width = self.pixels.shape
        x, y = self.origin
        return stored.crop((x, y, x + width, y + height))


def read_frame(
    path: Path, rules: Rules, *, frame: int = 0, modality: Literal["grey", "flow", "luminance"] = "luminance"
) -> DecodedPicture:
    """Frame number ``frame`` (from 0) of the object at ``path``.

    Raises:
        UnusableImageError: no pixels that can be decoded, no ultrasound region, or burnt-in text where ``rules`` forbid it.
    """
    facts, pixels = _decoded(path, frame)
    says = declared(facts)
    if says.any_region and says.field is None and not _drawn_for_two_dimensions(facts, says):
        raise UnusableImageError(Reason.NOT_2D)
    stored = pixels.shape[1], pixels.shape[0]
    field, pixels = _only_ultrasound(pixels, says, rules, burned_in=str(facts.get("BurnedInAnnotation") or "").upper() == "YES")
    if rules.burned_in != "keep":
        graphics = deidentify.burned_in(pixels, flow=says.flow or (pixels.ndim == 3 and deidentify.shows_flow(pixels)))
        if rules.burned_in == "refuse" and graphics.any():
            raise UnusableImageError(Reason.BURNED_IN)
        seen = deidentify.paint_over(_as(modality, pixels), graphics)
    else:
        seen = _as(modality, pixels)
    return DecodedPicture(seen, (field[0], field[1]), stored, says.mm_per_pixel, modality)


def has_flow(path: Path, rules: Rules, *, frame: int) -> bool:
    """Whether colour Doppler is seen in the ultrasound region of a frame; False if it cannot be read."""
    try:
        facts, pixels = _decoded(path, frame)
        if pixels.ndim == 2:
            return False
        _, pixels = _only_ultrasound(pixels, declared(facts), rules, burned_in=False)
    except UnusableImageError:
        return False
    return deidentify.shows_flow(pixels)


def _drawn_for_two_dimensions(facts: Dataset, says: Declared) -> bool:
    """Whether a 2-D region is declared at all, though its bounds do not fit the picture."""
    from client.cohort.dicom_regions import regions

    return bool(regions(facts)) or says.field is not None


def _only_ultrasound(pixels: Pixels, says: Declared, rules: Rules, *, burned_in: bool) -> tuple[PixelBox, Pixels]:
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
    if burned_in and rules.burned_in != "keep":
        raise UnusableImageError(Reason.BURNED_IN)
    found = deidentify.ultrasound_field(deidentify.brightness(pixels))
    if found is None:
        raise UnusableImageError(Reason.NO_REGION)
    box, inside = found
    kept = deidentify.keep_only(pixels, box)
    kept[~inside] = 0
    return box, kept


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


def _decoded(path: Path, frame: int) -> tuple[Dataset, Pixels]:
    """What is needed to know of the object, and the frame as uint8 ``[H, W]`` or ``[H, W, 3]`` (RGB)."""
    with _install_lock:
        dicom_lossless.install()
    try:
        facts = dcmread(path, stop_before_pixels=True, specific_tags=list(_FRAME_TAGS))
        if int(facts.get("Rows") or 0) * int(facts.get("Columns") or 0) > MAX_PIXELS:
            raise UnusableImageError(Reason.TOO_LARGE)
        described = Dataset()
        levels = pixel_array(path, ds_out=described, index=frame)
        return facts, _eight_bits(levels, described)
    except UnusableImageError:
        raise
    except FileNotFoundError:
        raise UnusableImageError(Reason.MISSING) from None
    except InvalidDicomError:
        raise UnusableImageError(Reason.FORMAT if path.stat().st_size else Reason.EMPTY) from None
    except OSError as error:
        raise UnusableImageError(Reason.UNREADABLE if error.errno else Reason.DAMAGED) from None
    except (NotImplementedError, RuntimeError) as error:
        undecodable = "decod" in str(error) or isinstance(error, NotImplementedError)
        raise UnusableImageError(Reason.COMPRESSION if undecodable else Reason.DAMAGED) from None
    except Exception:  # a decoder fed with damaged bytes raises nearly anything, and no file may stop a study
        raise UnusableImageError(Reason.DAMAGED) from None


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
