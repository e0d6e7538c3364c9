"""What pictures show as a whole: duplicates, borders, contact sheets. All on the pixels that the network would see, but for
the sheets that show pictures before and after standardisation."""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from client.cohort.contact_sheet import contact_sheet
from client.cohort.images import Frame, UnusableImageError
from client.cohort.pictures import Picture, frame_of
from client.cohort.tensors import CohortTensors
from client.preflight.checks import Check, Problem, Sheet, check_of
from shared_model import protocol
from shared_model.inputs import ABSENT
from shared_model.messages import Part

_HASH = 16  # a difference hash of 16 x 16 bits
_ALIKE_BITS = 12  # of 256: re-saved, re-scaled or re-graded copies differ by a few
_LEAST_CONTRAST = 4.0  # grey levels; a flat picture is like any other flat one
_BLOCKS = 8  # of a side
_MOST_COMPARED = 20_000
_CHUNK = 128
_SHEET_COLUMNS, _THUMBNAIL, _GAP = 8, 112, 4
_PAIR_COLUMNS = 4  # of pictures before and after


@dataclass(frozen=True)
class Owned:
    """All stored pictures: grey levels uint8 ``[M, H, W]``, the patient and the part of each ``[M]``."""

    grey: NDArray[np.uint8]
    patient: NDArray[np.int64]
    part: NDArray[np.str_]


def owned_pictures(tensors: CohortTensors, parts: Mapping[Part, Tensor]) -> Owned:
    """The pictures of a cohort with their owners."""
    slots = tensors.slots.numpy()
    patient = np.zeros(len(tensors.images), dtype=np.int64)
    rows, columns = np.nonzero(slots != ABSENT)
    patient[slots[rows, columns]] = rows
    of_patient = np.full(len(tensors), "", dtype="<U5")
    for part, index in parts.items():
        of_patient[index.numpy()] = part
    return Owned(tensors.images[:, 0].numpy(), patient, of_patient[patient])


def duplicate_check(pictures: Owned) -> Check:
    """Pictures that several patients share, identical or nearly so. Across parts, the test is not of unseen patients."""
    title = "No picture twice"
    distinct, identical = _identical(pictures)
    alike = _alike(pictures, distinct)
    failures: list[Problem] = []
    warnings: list[Problem] = []
    mend = "are these the same person under two identifiers? keep one, or give both the same patient_id"
    for pairs, how, across_to in ((identical, "identical", failures), (alike, "nearly identical", warnings)):
        if pairs.across:
            across_to.append(Problem(f"{how} pictures of different patients in different parts: {pairs.across} pairs", mend))
        if pairs.within:
            warnings.append(Problem(f"{how} pictures of different patients in one part: {pairs.within} pairs", mend))
    found = f"{len(pictures.grey)} pictures: {identical.count} pairs identical, {alike.count} nearly, between patients"
    return check_of("duplicates", title, found, warnings=warnings, failures=failures)


def border_features(pictures: Owned, *, patients: int) -> dict[str, NDArray[np.float64]]:
    """Brightness and edges in blocks along each side, mean of a patient's pictures: float64 ``[P, F]`` for each side."""
    grey = pictures.grey.astype(np.float64)
    edges = np.zeros_like(grey)
    edges[:, :, 1:] = np.abs(np.diff(grey, axis=2))
    maps = [_block_means(grey), _block_means(edges)]  # each [M, 8, 8]
    sides = {
        "top": [blocks[:, 0, :] for blocks in maps],
        "bottom": [blocks[:, -1, :] for blocks in maps],
        "left": [blocks[:, :, 0] for blocks in maps],
        "right": [blocks[:, :, -1] for blocks in maps],
    }
    sides["whole border"] = [blocks for side in list(sides.values()) for blocks in side]
    return {side: _patient_means(np.concatenate(blocks, axis=1), pictures.patient, patients) for side, blocks in sides.items()}


def contact_sheets(pictures: Owned, tensors: CohortTensors, views: Sequence[str]) -> list[Sheet]:
    """Pictures of each view, negative patients above positive ones, spread evenly over the cohort."""
    view_of = np.zeros(len(pictures.grey), dtype=np.int64)
    slots, slot_views = tensors.slots.numpy(), tensors.views.numpy()
    view_of[slots[slots != ABSENT]] = slot_views[slots != ABSENT]
    labels = tensors.label.numpy()[pictures.patient]
    sheets = []
    for place, view in enumerate(views):
        rows = [_spread(np.nonzero((view_of == place) & (labels == outcome))[0]) for outcome in (0.0, 1.0)]
        if any(map(len, rows)):
            count = int((view_of == place).sum())
            sheets.append(
                Sheet(
                    f"{view}: {count} pictures; above of negative, below of positive patients. As the network sees them.",
                    _sheet(pictures, rows),
                )
            )
    return sheets


def standardisation_sheets(pictures: Sequence[Picture], settings: protocol.Images) -> list[Sheet]:
    """For each view that the site has, some of its stored pictures, each beside what the network sees of it."""
    sheets = []
    for place, view in enumerate(settings.views):
        frames = _readable([picture for picture in pictures if picture.view == place], settings)
        if frames:
            caption = (
                f"{view}: before and after standardisation. Left: as stored, what is used outlined in blue, the lesion in "
                "yellow; right: as the network sees it."
            )
            sheets.append(Sheet(caption, _jpeg(contact_sheet(frames, settings, columns=_PAIR_COLUMNS))))
    return sheets


def _readable(pictures: Sequence[Picture], settings: protocol.Images) -> list[Frame]:
    """Frames spread evenly over ``pictures``; those that cannot be read are told of by other checks."""
    frames = []
    for place in _spread(np.arange(len(pictures))):
        with contextlib.suppress(UnusableImageError):
            frames.append(frame_of(pictures[int(place)], settings))
    return frames


def row_check(columns: Mapping[str, Sequence[str]], part_of: Sequence[str]) -> Check:
    """Patients whose rows are the same in every column: ``columns`` hold a cell for each patient, ``part_of`` the part."""
    rows = list(zip(*columns.values(), strict=True))
    groups: dict[tuple[str, ...], set[str]] = {}
    for row, part in zip(rows, part_of, strict=True):
        groups.setdefault(row, set()).add(part)
    counts = Counter(rows)
    copies = sum(count - 1 for count in counts.values())
    across = sum(count for row, count in counts.items() if count > 1 and len(groups[row]) > 1)
    found = f"{copies} of {len(rows)} rows repeat another in all {len(columns)} columns"
    if not copies:
        return check_of("rows", "No patient twice", found)
    what = f"{copies} patients have the same row as another" + (
        f"; {across} patients of such groups are in different parts" if across else ""
    )
    remedy = "with few columns of few values this is chance; otherwise remove the copies"
    return check_of("rows", "No patient twice", found, warnings=[Problem(what, remedy)])


@dataclass(frozen=True)
class _Pairs:
    """Pairs of pictures of different patients, in different parts or in one. Counted only: of n copies there are n squared."""

    across: int = 0
    within: int = 0

    @property
    def count(self) -> int:
        return self.across + self.within

    @classmethod
    def of(cls, pictures: Owned, ones: NDArray[np.int64], others: NDArray[np.int64]) -> "_Pairs":
        strangers = pictures.patient[ones] != pictures.patient[others]
        apart = pictures.part[ones] != pictures.part[others]
        return cls(int((strangers & apart).sum()), int((strangers & ~apart).sum()))


def _identical(pictures: Owned) -> tuple[NDArray[np.int64], _Pairs]:
    """The first of each group of identical pictures, and the pairs of it with the others; flat pictures are in no group."""
    groups: dict[bytes, list[int]] = {}
    for place, grey in enumerate(pictures.grey):
        if grey.std() >= _LEAST_CONTRAST:
            groups.setdefault(grey.tobytes(), []).append(place)
    pairs = np.array([(group[0], other) for group in groups.values() for other in group[1:]], dtype=np.int64).reshape(-1, 2)
    distinct = np.array([group[0] for group in groups.values()], dtype=np.int64)
    return distinct, _Pairs.of(pictures, pairs[:, 0], pairs[:, 1])


def _alike(pictures: Owned, distinct: NDArray[np.int64]) -> _Pairs:
    """Pairs among the ``distinct`` pictures that differ in a few bits of their hashes."""
    compared = distinct[:_MOST_COMPARED]
    if not len(compared):
        return _Pairs()
    hashes = np.stack([_difference_hash(pictures.grey[place]) for place in compared])
    across = within = 0
    for start in range(0, len(compared), _CHUNK):
        apart = np.bitwise_count(hashes[start : start + _CHUNK, None] ^ hashes[None, start:]).sum(axis=2)  # [chunk, rest]
        near, far = np.nonzero(apart <= _ALIKE_BITS)
        found = _Pairs.of(pictures, compared[start + near[near < far]], compared[start + far[near < far]])
        across, within = across + found.across, within + found.within
    return _Pairs(across, within)


def _difference_hash(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Whether each of 16 x 16 areas is brighter than its left neighbour, as four 64-bit words."""
    small = np.asarray(Image.fromarray(grey).resize((_HASH + 1, _HASH), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(np.diff(small, axis=1) > 0).view(np.uint64)


def _block_means(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 8 x 8 blocks: ``[M, H, W]`` -> ``[M, 8, 8]``; rows and columns beyond a multiple of 8 are left out."""
    size = images.shape[1] // _BLOCKS
    cut = images[:, : size * _BLOCKS, : size * _BLOCKS]
    means: NDArray[np.float64] = cut.reshape(len(images), _BLOCKS, size, _BLOCKS, size).mean(axis=(2, 4))
    return means


def _patient_means(values: NDArray[np.float64], patient: NDArray[np.int64], patients: int) -> NDArray[np.float64]:
    sums = np.zeros((patients, values.shape[1]))
    np.add.at(sums, patient, values)
    counts = np.bincount(patient, minlength=patients)[:, None]
    return sums / np.maximum(counts, 1)


def _spread(places: NDArray[np.int64]) -> NDArray[np.int64]:
    return (
        places[np.unique(np.linspace(0, len(places) - 1, min(len(places), _SHEET_COLUMNS)).astype(int))]
        if len(places)
        else places
    )


def _sheet(pictures: Owned, rows: Sequence[NDArray[np.int64]]) -> bytes:
    step = _THUMBNAIL + _GAP
    sheet = Image.new("L", (_SHEET_COLUMNS * step - _GAP, len(rows) * step - _GAP))
    for line, places in enumerate(rows):
        for column, place in enumerate(places):
            thumbnail = Image.fromarray(pictures.grey[place]).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
            sheet.paste(thumbnail, (column * step, line * step))
    return _jpeg(sheet)


def _jpeg(sheet: Image.Image) -> bytes:
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=80)
    return content.getvalue()
