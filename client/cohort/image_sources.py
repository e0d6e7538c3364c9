"""Do the keys of ``[images]`` belong together? A table of pictures, a folder of DICOM objects, or both."""

import re
from collections.abc import Collection, Iterator

from client.site_config import Images
from shared_model.config_file import did_you_mean, quoted
from shared_model.errors import Fault

_WITH_DICOM = ("patient_column", "uid", "flow", "frames", "region", "burned_in", "secondary_capture")
_WITH_TABLE = ("file", "uid", "roi", "mask", "where", "folder")


def source_faults(images: Images, *, columns: Collection[str], where: str) -> list[Fault]:
    """Keys that are missing, that need another, or that hold no DICOM tag, no regular expression or no box; ``columns`` are
    those of the table of images."""
    together = _of_table(images, where) if images.dicom is None else _of_dicom(images, columns, where)
    return [*together, *_of_patterns(images, where), *_of_region(images, where)]


def _of_table(images: Images, where: str) -> Iterator[Fault]:
    remedy = 'add it, or name a folder of DICOM objects: dicom = "folder/"'
    for key in ("table", "patient_id", "file"):
        if getattr(images, key) is None:
            yield Fault(where, f"images.{key}", "nothing", "this key is required where images are in a table", remedy)
    for key in _WITH_DICOM:
        if key in images.model_fields_set:
            yield _without(where, key, images, "images.dicom")
    if images.view.tag is not None:
        yield Fault(
            where, "images.view.tag", quoted(" ".join(images.view.tags)), "images.dicom beside it", "use column instead"
        )


def _of_dicom(images: Images, columns: Collection[str], where: str) -> Iterator[Fault]:
    if images.table is None:
        for key in _WITH_TABLE:
            if key in images.model_fields_set:
                yield _without(where, key, images, "images.table")
        for key, value in (("view.column", images.view.column), ("mm_per_pixel", images.mm_per_pixel)):
            if isinstance(value, str):
                remedy = "use a tag or a number instead, or name the table"
                yield Fault(where, f"images.{key}", quoted(value), "images.table beside it", remedy)
    elif (images.file is None) == (images.uid is None):
        found = "both" if images.uid else "neither"
        remedy = "keep the one whose column tells the objects apart"
        yield Fault(where, "images.file", found, "one of images.file and images.uid, to find the rows of an object", remedy)
    if images.patient_id is not None and images.patient_id not in columns:
        yield from _tag_faults("images.patient_id", images.patient_id, where)
    for tag in images.view.tags:
        yield from _tag_faults("images.view.tag", tag, where)


def _tag_faults(key: str, tag: str, where: str) -> Iterator[Fault]:
    from pydicom.datadict import keyword_dict, tag_for_keyword

    if tag_for_keyword(tag) is None:
        remedy = did_you_mean(tag, list(keyword_dict), otherwise='use the keyword of the standard, such as "SeriesDescription"')
        yield Fault(where, key, quoted(tag), "the keyword of a DICOM tag", remedy)


def _of_patterns(images: Images, where: str) -> Iterator[Fault]:
    for pattern in images.view.match:
        try:
            re.compile(pattern)
        except re.error as error:
            yield Fault(where, f"images.view.match.{pattern}", str(error), "a regular expression", "mend it, or use codes")


def _of_region(images: Images, where: str) -> Iterator[Fault]:
    if isinstance(images.region, tuple):
        x0, y0, x1, y1 = images.region
        if not (0 <= x0 < x1 and 0 <= y0 < y1):
            expected = "x0, y0, x1, y1 in pixels, the upper left corner first"
            yield Fault(where, "images.region", str(list(images.region)), expected, "change the box accordingly")


def _without(where: str, key: str, images: Images, needed: str) -> Fault:
    return Fault(where, f"images.{key}", str(getattr(images, key)), f"{needed} beside it", f"remove it, or add {needed}")
