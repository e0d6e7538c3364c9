"""From rows of the image table to the image tensors of a cohort."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import groupby, zip_longest
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from client.cohort.cache import Slot
from client.cohort.dicom import Modality, Rules, read_frame
from client.cohort.images import Box, Frame, Pixels, Reason, UnusableImageError, decode_grey, decode_mask, remedies, standardize
from client.cohort.parallel import Progress, in_threads
from client.cohort.patterns import FilePattern
from client.cohort.tables import Table, listed, locate, number, row_filter
from client.site_config import Images
from shared_model import protocol
from shared_model.errors import CohortError, Fault
from shared_model.inputs import ABSENT

_VERSION = 3  # of everything here and in images.py that decides about pixels; part of the cache's key
_MAX_BYTES = 2**28
_LISTED_FILES = 5  # of each reason
_REASONS = tuple(Reason)
_UNSCALED, _UNREAD, _USED = -3, -2, -1


@dataclass(frozen=True)
class DicomFrame:
    """Which frame of an object it is, what of its colours is wanted, and how its pixels are de-identified."""

    number: int
    modality: Modality
    rules: Rules


@dataclass(frozen=True)
class Picture:
    """A row of the image table, or a frame of a DICOM object, of an included patient. ``patient`` and ``view`` are indices."""

    patient: int
    view: int
    file: Path | None
    mask: Path | None
    box: Box | None
    mm_per_pixel: float | None
    dicom: DicomFrame | None = None


@dataclass(frozen=True)
class PictureRows:
    """What the image table, or the DICOM folder, says. ``pictures`` are in the order in which they would be taken, patient by
    patient; ``skipped`` counts files of the folder that are none, by reason."""

    pictures: tuple[Picture, ...]
    unmapped_views: dict[str, int]
    of_nobody: int
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PictureTensors:
    """``images`` uint8 ``[M, C, H, W]``; ``slots``, ``views`` int64 ``[P, V]``; ``unusable`` pictures with reasons, in
    the order of ``pictures``; how many ``read``, how many ``used``, how many of those ``unscaled`` where the protocol wants a
    scale; and what became of the cache."""

    images: Tensor
    slots: Tensor
    views: Tensor
    unusable: tuple[tuple[Picture, Reason], ...]
    read: int
    used: int
    unscaled: int
    cache: str


def list_pictures(
    table: Table,
    config: Images,
    *,
    patients: Sequence[str],
    known: frozenset[str],
    views: Sequence[str],
    where: Path,
) -> PictureRows:
    """Pictures of ``patients``; ``known`` are all of the cohort table, for pictures of others are told of. ``views`` are the
    protocol's.

    Raises:
        CohortError: no row passes the filter or belongs to anyone, or a lesion box or a scale holds what is no number.
        ConfigurationError: an environment variable of ``folder`` is not set.
    """
    folder = table.path.parent
    if config.folder is not None:
        folder = locate(config.folder, base=where.parent, where=str(where), key="images.folder")
    identifiers = table.column(config.patient_id or "")
    rows = row_filter(table, config.where, config)
    nobody = sum(identifiers[row] not in known for row in rows)
    if nobody == len(rows):
        raise CohortError([_no_common_patient([identifiers[row] for row in rows], known, table, where)])
    index = {patient: place for place, patient in enumerate(patients)}
    rows = [row for row in rows if identifiers[row] in index]
    boxes = lesion_boxes(table, config, rows, where=str(where))
    scales = scales_of(table, config, rows, where=str(where))
    file, mask = FilePattern.parse(config.file or ""), FilePattern.parse(config.mask) if config.mask else None
    pictures: list[list[Picture]] = [[] for _ in patients]
    unmapped = Counter[str]()
    for row, box, scale in zip(rows, boxes, scales, strict=True):
        view = config.view.view_of(*table.texts(config.view.column, row))
        if view is None:
            unmapped[table.column(config.view.column or "")[row]] += 1
            continue
        cells = {column: table.columns[column][row] for column in (*file.columns, *(mask.columns if mask else ()))}
        place, outline = index[identifiers[row]], path_of(mask, cells, folder) if mask else None
        pictures[place].append(Picture(place, views.index(view), path_of(file, cells, folder), outline, box, scale))
    return PictureRows(tuple(p for own in pictures for p in in_turn(own)), dict(unmapped), nobody)


def read_pictures(
    pictures: Sequence[Picture],
    settings: protocol.Images,
    *,
    patients: int,
    max_unusable: float,
    cache: str,
    where: Path,
    on_progress: Progress,
) -> PictureTensors:
    """Decode as many of each patient's ``pictures`` as the protocol wants, or take them from the cache named ``cache``.

    An unusable picture gives its place to the patient's next one.

    Raises:
        CohortError: a share of more than ``max_unusable`` of the pictures read is unusable.
    """
    slot = Slot(cache, _key(pictures, settings, patients, on_progress))
    stored, state = slot.read()
    found = stored or _decoded(pictures, settings, patients, on_progress)
    status = found["status"].tolist()
    unusable = tuple((picture, _REASONS[code]) for picture, code in zip(pictures, status, strict=True) if code >= 0)
    read = sum(code != _UNREAD for code in status)
    if len(unusable) > max_unusable * read:
        raise CohortError([_too_many_unusable(unusable, read, max_unusable, where)])
    if stored is None:
        state = slot.write(found) or state
    used, unscaled = read - len(unusable), status.count(_UNSCALED)
    return PictureTensors(found["images"], found["slots"], found["views"], unusable, read, used, unscaled, state)


def no_pictures(settings: protocol.Images | None, *, patients: int) -> PictureTensors:
    """The tensors of a site, or a study, without images."""
    shape = (0, settings.channels, settings.size, settings.size) if settings else (0, 1, 1, 1)
    empty = torch.full((patients, settings.per_patient if settings else 0), ABSENT)
    return PictureTensors(torch.zeros(shape, dtype=torch.uint8), empty, empty.clone(), (), 0, 0, 0, "not needed")


def path_of(pattern: FilePattern, cells: dict[str, str], folder: Path) -> Path | None:
    """The file that ``pattern`` names below ``folder`` for a row with ``cells``, None if a cell is empty."""
    text = pattern.expand(cells)
    return folder / text.replace("\\", "/") if text else None


def lesion_boxes(table: Table, config: Images, rows: list[int], *, where: str) -> list[Box | None]:
    """The lesion box of each row; a row with an empty corner has none."""
    if config.roi is None:
        return [None] * len(rows)
    boxes: list[Box | None] = []
    wrong: list[str] = []
    for row in rows:
        corners = [table.column(name)[row] for name in config.roi]
        numbers = [number(corner, decimal=config.decimal) for corner in corners if corner]
        wrong += [corner for corner, value in zip(filter(None, corners), numbers, strict=True) if value is None]
        found = [value for value in numbers if value is not None]
        boxes.append((found[0], found[1], found[2], found[3]) if len(found) == 4 else None)
    if wrong:
        found_text = f"{len(wrong)} cells of {listed(config.roi)} are no numbers: {listed(dict.fromkeys(wrong), limit=5)}"
        remedy = "mend the columns named in images.roi; leave cells empty where a picture has no box"
        raise CohortError([Fault(where, "images.roi", found_text, "pixels of the stored picture, x0 y0 x1 y1", remedy)])
    return boxes


def scales_of(table: Table, config: Images, rows: list[int], *, where: str) -> list[float | None]:
    """Millimetres a pixel of each row; a row with an empty cell has none."""
    if not isinstance(config.mm_per_pixel, str):
        return [config.mm_per_pixel] * len(rows)
    cells = [table.column(config.mm_per_pixel)[row] for row in rows]
    scales = [number(cell, decimal=config.decimal) if cell else None for cell in cells]
    if wrong := [cell for cell, scale in zip(cells, scales, strict=True) if cell and not (scale and scale > 0.0)]:
        found = f"{len(wrong)} cells of {config.mm_per_pixel} are no scales: {listed(dict.fromkeys(wrong), limit=5)}"
        remedy = "mend the column; leave cells empty where the scale is unknown"
        raise CohortError([Fault(where, "images.mm_per_pixel", found, "millimetres above 0", remedy)])
    return scales


def _no_common_patient(identifiers: list[str], known: frozenset[str], table: Table, where: Path) -> Fault:
    if not identifiers:
        remedy = "use values that the columns hold"
        return Fault(str(where), "images.where", "no row of the image table passes the filter", "at least one", remedy)
    found = f"{table.path.name} has patients such as {listed(identifiers, limit=3)}"
    expected = f"patients of the cohort table, such as {listed(sorted(known), limit=3)}"
    return Fault(str(where), "images.patient_id", found, expected, "name the column that holds the same identifiers")


def _too_many_unusable(unusable: tuple[tuple[Picture, Reason], ...], read: int, limit: float, where: Path) -> Fault:
    by_reason: dict[Reason, list[str]] = {}
    for picture, reason in unusable:
        by_reason.setdefault(reason, []).append(str(picture.file or "(none)"))
    ordered = sorted(by_reason.items(), key=lambda held: -len(held[1]))
    found = f"{len(unusable)} of {read} images are unusable: " + ", ".join(f"{why} ({len(files)})" for why, files in ordered)
    for reason, files in ordered:
        rest = [f"and {len(files) - _LISTED_FILES} more"] if len(files) > _LISTED_FILES else []
        found += "".join(f"\n        {line}" for line in (*(f"{file}: {reason}" for file in files[:_LISTED_FILES]), *rest))
    remedy = f"{remedies(by_reason)}; or raise images.max_unusable"
    return Fault(str(where), "images.max_unusable", found, f"at most a share of {limit:g}", remedy)


def in_turn(pictures: list[Picture]) -> Iterator[Picture]:
    """One picture of each view, then the second of each, and so on."""
    ordered = sorted(pictures, key=lambda picture: picture.view)
    by_view = [list(group) for _, group in groupby(ordered, key=lambda picture: picture.view)]
    for turn in zip_longest(*by_view):
        yield from (picture for picture in turn if picture is not None)


def _key(pictures: Sequence[Picture], settings: protocol.Images, patients: int, on_progress: Progress) -> str:
    """Identity of everything that the stored tensors depend on, by content."""
    needs_mask = _needs_mask(settings)

    files = list(dict.fromkeys([p.file for p in pictures] + [p.mask for p in pictures if needs_mask]))
    content = dict(zip(files, in_threads(_content_hash, files, "checking images", on_progress), strict=True))
    identities = [
        (
            picture.patient,
            picture.view,
            content[picture.file],
            content[picture.mask] if needs_mask else "",
            picture.box,
            picture.mm_per_pixel,
            astuple(picture.dicom) if picture.dicom else None,
        )
        for picture in pictures
    ]
    everything = [_VERSION, PIL.__version__, settings.model_dump(mode="json"), patients, identities]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def _content_hash(path: Path | None) -> str:
    if path is None:
        return Reason.NOT_NAMED.name
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        return type(error).__name__


def _decoded(pictures: Sequence[Picture], settings: protocol.Images, patients: int, on_progress: Progress) -> dict[str, Tensor]:
    status = np.full(len(pictures), _UNREAD, dtype=np.int64)
    pixels: dict[int, Pixels] = {}
    waiting: list[list[int]] = [[] for _ in range(patients)]
    for place, picture in enumerate(pictures):
        waiting[picture.patient].append(place)
    taken: list[list[int]] = [[] for _ in range(patients)]

    def read(place: int) -> tuple[Pixels, int] | Reason:
        try:
            return _read(pictures[place], settings)
        except UnusableImageError as error:
            return error.reason

    while wanted := _wanted(waiting, taken, settings.per_patient):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters raises
            results = in_threads(read, wanted, "reading images", on_progress)
        for place, result in zip(wanted, results, strict=True):
            if isinstance(result, Reason):
                status[place] = _REASONS.index(result)
            else:
                pixels[place], status[place] = result
                taken[pictures[place].patient].append(place)

    slots = np.full((patients, settings.per_patient), ABSENT, dtype=np.int64)
    views = np.full_like(slots, ABSENT)
    stored = sorted(pixels, key=lambda place: (pictures[place].patient, pictures[place].view, place))
    for image, place in enumerate(stored):
        own = int((slots[pictures[place].patient] != ABSENT).sum())
        slots[pictures[place].patient, own] = image
        views[pictures[place].patient, own] = pictures[place].view
    images = np.zeros((len(stored), settings.channels, settings.size, settings.size), dtype=np.uint8)
    for image, place in enumerate(stored):
        images[image] = pixels.pop(place)
    named = {"images": images, "slots": slots, "views": views, "status": status}
    return {name: torch.from_numpy(array) for name, array in named.items()}


def _wanted(waiting: list[list[int]], taken: list[list[int]], limit: int) -> list[int]:
    """The next pictures to read, taken off ``waiting``: as many as each patient still has room for."""
    wanted = []
    for queue, own in zip(waiting, taken, strict=True):
        room = limit - len(own)
        wanted += queue[:room]
        del queue[:room]
    return wanted


def _read(picture: Picture, settings: protocol.Images) -> tuple[Pixels, int]:
    """The picture as the protocol wants it, and whether it is ``_USED`` or ``_UNSCALED``."""
    frame = frame_of(picture, settings)
    return standardize(frame, settings), _UNSCALED if settings.needs_scale and frame.mm_per_pixel is None else _USED


def frame_of(picture: Picture, settings: protocol.Images) -> Frame:
    """``picture`` decoded, with its lesion and its view, before anything is standardised.

    Raises:
        UnusableImageError: it, or the lesion mask that the protocol needs, cannot be read.
    """
    mask = None
    if picture.mask is not None and _needs_mask(settings):
        try:
            mask = np.asarray(decode_mask(_bytes(picture.mask)))
        except UnusableImageError:
            raise UnusableImageError(Reason.MASK) from None
    return replace(_decoded_frame(picture, mask), view=tuple(settings.views)[picture.view])


def _decoded_frame(picture: Picture, mask: Pixels | None) -> Frame:
    if picture.dicom is None:
        pixels = np.asarray(decode_grey(_bytes(picture.file)))
        return Frame(pixels, mask=mask, box=picture.box, mm_per_pixel=picture.mm_per_pixel)
    if picture.file is None:
        raise UnusableImageError(Reason.NOT_NAMED)
    wanted = picture.dicom
    frame = read_frame(picture.file, wanted.rules, number=wanted.number, modality=wanted.modality, mask=mask, box=picture.box)
    return frame if frame.mm_per_pixel is not None else replace(frame, mm_per_pixel=picture.mm_per_pixel)


def _needs_mask(settings: protocol.Images) -> bool:
    return settings.lesion_mask or settings.crop == "lesion"


def _bytes(path: Path | None) -> bytes:
    if path is None:
        raise UnusableImageError(Reason.NOT_NAMED)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UnusableImageError(Reason.TOO_LARGE)
        return path.read_bytes()
    except FileNotFoundError:
        raise UnusableImageError(Reason.MISSING) from None
    except (OSError, ValueError):  # ValueError: a null byte in the name
        raise UnusableImageError(Reason.UNREADABLE) from None
