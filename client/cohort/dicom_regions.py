"""Where in an ultrasound picture the ultrasound is, of which kind, and at which scale: ``SequenceOfUltrasoundRegions``.

DICOM PS3.3 C.8.5.5: a region has bounds in pixels, a spatial format (2-D, M-mode, spectrum, wave form, graphics), a
data type (tissue, colour flow, spectral Doppler ...) and the physical size of a pixel.
"""

from dataclasses import dataclass

from pydicom import Dataset

PixelBox = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the stored picture; x1 and y1 are outside

_TWO_DIMENSIONAL = 1  # (0018,6012) Region Spatial Format
_TISSUE, _COLOUR_FLOW = 1, 2  # (0018,6014) Region Data Type
_CENTIMETRES = 3  # (0018,6024) and (0018,6026) Physical Units
_ROUNDING = 1  # vendors disagree whether the last pixel or the one after it is meant


@dataclass(frozen=True)
class Region:
    """One 2-D region of tissue or colour flow. ``mm_per_pixel`` is (row, column), None where no length is declared."""

    box: PixelBox
    colour_flow: bool
    mm_per_pixel: tuple[float, float] | None


@dataclass(frozen=True)
class Declared:
    """What an object says of its picture.

    ``field`` is the 2-D region to use, None without one that fits the picture; ``cut`` what is left of one that reaches beyond
    the right or the lower edge. ``flow`` is whether colour flow is drawn on it. ``mm_per_pixel`` is (row, column).
    ``other_regions_only``: regions are declared, but none of them is a 2-D picture. ``burned_in``: so BurnedInAnnotation says.
    """

    field: PixelBox | None = None
    cut: PixelBox | None = None
    flow: bool = False
    mm_per_pixel: tuple[float, float] | None = None
    other_regions_only: bool = False
    burned_in: bool = False


def declared(dataset: Dataset) -> Declared:
    """The 2-D region of ``dataset`` to use: the largest of tissue, or else of colour flow.

    Bounds that reach beyond the picture show that it was cut or resampled after they were written: they are no bounds to
    trust. Beyond one edge only it was cut, and its scale still holds; beyond both it was resampled.
    """
    found = regions(dataset)
    burned_in = str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES"
    tissue = [region for region in found if not region.colour_flow]
    chosen = max(tissue or found, key=lambda region: _area(region.box), default=None)
    if chosen is None:
        others = bool(dataset.get("SequenceOfUltrasoundRegions"))
        return Declared(mm_per_pixel=_pixel_spacing(dataset), other_regions_only=others, burned_in=burned_in)
    flow = any(region.colour_flow and _overlap(region.box, chosen.box) for region in found)
    height, width = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    x0, y0, x1, y1 = chosen.box
    inside = x0, y0, min(x1, width), min(y1, height)
    beyond = (x1 > width + _ROUNDING) + (y1 > height + _ROUNDING)
    if beyond == 2 or x0 >= width or y0 >= height:
        return Declared(flow=flow, burned_in=burned_in)
    if beyond == 1:
        return Declared(cut=inside, flow=flow, mm_per_pixel=chosen.mm_per_pixel, burned_in=burned_in)
    return Declared(field=inside, flow=flow, mm_per_pixel=chosen.mm_per_pixel, burned_in=burned_in)


def regions(dataset: Dataset) -> tuple[Region, ...]:
    """The 2-D regions of tissue and of colour flow; malformed ones are passed over."""
    found = (_region(item) for item in dataset.get("SequenceOfUltrasoundRegions") or ())
    return tuple(region for region in found if region is not None)


def _region(item: Dataset) -> Region | None:
    kind = item.get("RegionDataType")
    if item.get("RegionSpatialFormat") != _TWO_DIMENSIONAL or kind not in {_TISSUE, _COLOUR_FLOW}:
        return None
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    bounds = [item.get(name) for name in names]
    if not all(isinstance(bound, int) for bound in bounds):
        return None
    x0, y0, x1, y1 = bounds
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        return None
    return Region((x0, y0, x1 + 1, y1 + 1), colour_flow=kind == _COLOUR_FLOW, mm_per_pixel=_scale(item))


def _scale(item: Dataset) -> tuple[float, float] | None:
    if item.get("PhysicalUnitsXDirection") != _CENTIMETRES or item.get("PhysicalUnitsYDirection") != _CENTIMETRES:
        return None
    return _lengths(item.get("PhysicalDeltaY"), item.get("PhysicalDeltaX"), factor=10.0)


def _pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    spacing = dataset.get("PixelSpacing")
    return _lengths(spacing[0], spacing[1], factor=1.0) if spacing and len(spacing) == 2 else None


def _lengths(row: object, column: object, *, factor: float) -> tuple[float, float] | None:
    """Both in mm, None if they are no lengths. Deltas are negative where an axis is drawn backwards."""
    try:
        lengths = abs(float(row)) * factor, abs(float(column)) * factor  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return lengths if all(1e-4 < length < 10.0 for length in lengths) else None


def _area(box: PixelBox) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(one: PixelBox, other: PixelBox) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
