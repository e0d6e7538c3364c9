"""The table of pictures: which columns hold the patient, the file, the view and the lesion's box."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.cohort.redcap import simplified
from client.init.guess import code_value, match_codes
from client.init.sources import PICTURES, Source
from client.init.words import BOXES, values_of_view
from shared_model.protocol import Images

_MOSTLY = 0.8
_TRIED_FILES = 20


@dataclass(frozen=True)
class PictureGuess:
    """The keys of ``[images]``, each with its evidence; ``source`` is the table."""

    source: Source
    settings: dict[str, tuple[object, str]]


def file_column(source: Source) -> str | None:
    """The column of ``source`` that names picture files."""
    for column, cells in source.table.columns.items():
        filled = [cell for cell in cells if cell]
        if filled and sum(Path(cell).suffix.lower() in PICTURES for cell in filled) >= _MOSTLY * len(filled):
            return column
    return None


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
