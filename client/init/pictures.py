"""The table of pictures: which columns hold the patient, the file, the view and the lesion's box."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.cohort.dicom_index import read_index
from client.cohort.redcap import simplified
from client.init.guess import code_value, match_codes
from client.init.sources import PICTURES, Source
from client.init.words import BOXES, values_of_view
from shared_model.protocol import Images

_MOSTLY = 0.8
_TRIED_FILES = 20
_UID = re.compile(r"[0-2](\.[0-9]+){5,}")
_PATIENT_TAGS = ("PatientID", "AccessionNumber", "StudyID")
_VIEW_TAGS = ("SeriesDescription", "ProtocolName", "ImageComments", "StudyDescription")


@dataclass(frozen=True)
class PictureGuess:
    """The keys of ``[images]``, each with its evidence; ``source`` is the table, None where DICOM files say all."""

    source: Source | None
    settings: dict[str, tuple[object, str]]


def file_column(source: Source) -> str | None:
    """The column of ``source`` that names picture files."""
    for column, cells in source.table.columns.items():
        filled = [cell for cell in cells if cell]
        if filled and sum(Path(cell).suffix.lower() in PICTURES for cell in filled) >= _MOSTLY * len(filled):
            return column
    return None


def uid_column(source: Source) -> str | None:
    """The column of ``source`` that holds DICOM identifiers of objects: a name of its own for each row."""
    for column, cells in source.table.columns.items():
        filled = [cell for cell in cells if cell]
        if filled and all(_UID.fullmatch(cell) for cell in filled) and len(set(filled)) == len(filled):
            return column
    return None


def guess_dicom(
    tables: Sequence[Source], images: Images, *, folders: Sequence[Path], cohort: Source, identifier: str, base: Path
) -> PictureGuess | None:
    """A folder of DICOM objects, with the table that names them by UID if there is one, or else by their own tags."""
    folder = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    settings: dict[str, tuple[object, str]] = {"dicom": (relative(folder, base), f"{len(folders)} folders with DICOM files")}
    patients = set(cohort.table.column(identifier))
    for source in tables:
        uid, owner = uid_column(source), _owner(source, patients, identifier)
        if uid is not None and owner is not None:
            settings |= {"uid": (uid, f'"{uid}" holds DICOM UIDs'), "patient_id": owner, "view": _view(source, images)}
            return PictureGuess(source, settings | _box(source))
    return PictureGuess(None, settings | _tags(folder, images, cohort, identifier))


def _tags(folder: Path, images: Images, cohort: Source, identifier: str) -> dict[str, tuple[object, str]]:
    """The tags that tell patient and view, and the column of the cohort table with the patient's, by a look at the headers."""
    found: dict[str, list[str]] = {tag: [] for tag in (*_PATIENT_TAGS, *_VIEW_TAGS)}
    for tag in found:
        index = read_index(
            folder, patient_tag=tag, view_tags=[], secondary_capture=False, on_progress=lambda _doing, _done, _total: None
        )
        found[tag] = [item.patient for item in index.objects if item.patient]
    shares = {
        (tag, column): sum(value in cells for value in found[tag]) / len(found[tag])
        for tag in _PATIENT_TAGS
        if found[tag]
        for column, cells in ((column, set(cells)) for column, cells in cohort.table.columns.items())
    }
    tag, column = max(shares, key=lambda pair: (shares[pair], pair[1] == identifier), default=("PatientID", identifier))
    share = shares.get((tag, column), 0.0)
    check = "" if share else "CHECK: no patient of the table was recognised; "
    settings: dict[str, tuple[object, str]] = {
        "patient_id": (tag, f'{check}{share:.0%} of its values are in column "{column}"')
    }
    if column != identifier:
        settings["patient_column"] = (column, "this column, not the identifier, holds what the files call the patient")
    return settings | {"view": _tagged_view(found, images)}


def _tagged_view(found: Mapping[str, Sequence[str]], images: Images) -> tuple[object, str]:
    names = {view: values_of_view(view) for view in images.views}
    only = next(iter(images.views))
    if len(images.views) == 1:
        return {"all": only}, "the study has one view"
    fits = {tag: match_codes(found[tag], names) for tag in _VIEW_TAGS}
    tag = max(fits, key=lambda tag: fits[tag].share)
    if fits[tag].share >= _MOSTLY and not fits[tag].ordered:
        return {"tag": tag, "codes": fits[tag].codes}, f"{fits[tag].share:.0%} of its values name views of the study"
    seen = "; ".join(f"{tag}: {counted_cells(values)}" for tag, values in found.items() if values and tag in _VIEW_TAGS)
    return {"all": only}, f"CHECK: no tag tells the view, all pictures are taken for this one ({seen or 'tags are empty'})"


def guess_pictures(
    sources: Sequence[Source], images: Images, *, patients: set[str], identifier: str, pictures: Sequence[Path], base: Path
) -> PictureGuess | None:
    """The image table among ``sources``, None if there is none. ``patients`` are the identifiers of the cohort table."""
    for source in sources:
        if (file := file_column(source)) is None:
            continue
        owner = _owner(source, patients, identifier)
        if owner is None:
            continue
        settings: dict[str, tuple[object, str]] = {
            "patient_id": owner,
            "file": (file, f'"{file}" holds names of picture files'),
        }
        settings |= _folder(source, file, pictures, base)
        settings["view"] = _view(source, images)
        settings |= _box(source)
        return PictureGuess(source, settings)
    return None


def _owner(source: Source, patients: set[str], identifier: str) -> tuple[object, str] | None:
    shares = {
        column: sum(cell in patients for cell in cells) / len(cells) for column, cells in source.table.columns.items() if cells
    }
    best = max(shares, key=lambda column: shares[column] + (column == identifier))
    return (best, f"{shares[best]:.0%} of its values are patients of the cohort table") if shares[best] > 0.1 else None


def _folder(source: Source, file: str, pictures: Sequence[Path], base: Path) -> dict[str, tuple[object, str]]:
    names = [cell.replace("\\", "/") for cell in source.table.columns[file] if cell][:_TRIED_FILES]
    if any((source.path.parent / name).exists() for name in names):
        return {}
    folders = dict.fromkeys(parent for picture in pictures for parent in picture.parents if len(parent.parts) > 1)
    for folder in folders:
        found = sum((folder / name).exists() for name in names)
        if found:
            return {"folder": (relative(folder, base), f"{found} of the first {len(names)} files are there")}
    return {}


def _view(source: Source, images: Images) -> tuple[object, str]:
    names = {view: values_of_view(view) for view in images.views}
    only = next(iter(images.views))
    if len(images.views) == 1:
        return {"all": only}, "the study has one view"
    best, chosen = 0.0, None
    for column, cells in source.table.columns.items():
        found = match_codes(cells, names)
        likely = found.share + 0.5 * (simplified(column) in {"view", "plane", "ebene", "projection"}) - 0.2 * found.ordered
        if found.share >= _MOSTLY and len(found.codes) > 1 and likely > best:
            order = "; CHECK: numbers taken in the order of the study's views" if all(c.isdigit() for c in found.codes) else ""
            best, chosen = likely, ({"column": column, "codes": found.codes}, f"its values name views of the study{order}")
    return chosen or ({"all": only}, "no column tells the view: CHECK, all pictures are taken for this one")


def _box(source: Source) -> dict[str, tuple[object, str]]:
    folded = {simplified(column): column for column in source.table.columns}
    for corners in BOXES:
        if all(corner in folded for corner in corners):
            return {"roi": ([folded[corner] for corner in corners], "named like the corners of a box")}
    return {}


def relative(path: Path, base: Path) -> str:
    """``path`` as ``site.toml`` in ``base`` writes it."""
    return Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()


def guess_split(source: Source, words: Sequence[str]) -> dict[str, object] | None:
    """The column that names the parts, if there is one."""
    names = {"train": ("train", "training"), "tune": ("tune", "val", "valid", "validation", "dev"), "test": ("test", "holdout")}
    for column, cells in source.table.columns.items():
        if simplified(column) in words:
            found = match_codes(cells, names)
            if found.share == 1.0 and len(found.codes) > 1 and not found.ordered:
                return {"column": column, "codes": {code: str(part) for code, part in found.codes.items()}}
    return None


def counted_cells(cells: Sequence[str], *, limit: int = 6) -> str:
    """The commonest cells, for a comment."""
    return ", ".join(str(code_value(cell)) for cell, _ in Counter(cell for cell in cells if cell).most_common(limit))
