"""Which ultrasound objects a folder holds: headers only, pixels stay on disk.

Of a header, only the tags named by the configuration and those that say what kind of picture it is are read. Nothing of it
is stored.
"""

import contextlib
import io
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from client.cohort.dicom import REGION_TAGS
from client.cohort.dicom_regions import declared
from client.cohort.parallel import Progress, in_threads

ULTRASOUND = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound Image Storage
        "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame Image Storage
        "1.2.840.10008.5.1.4.1.1.6",  # the same two, as retired
        "1.2.840.10008.5.1.4.1.1.3",
    }
)
SECONDARY_CAPTURE = frozenset({"1.2.840.10008.5.1.4.1.1.7", *(f"1.2.840.10008.5.1.4.1.1.7.{kind}" for kind in range(1, 5))})

EMPTY = "empty file"
UNREADABLE = "cannot be opened"
NOT_DICOM = "not DICOM"
DAMAGED = "damaged header"
NO_PIXELS = "no pixels"
SECOND_COPY = "a second copy of an object"

_HEADER_TAGS = ("SOPClassUID", "SOPInstanceUID", "NumberOfFrames", "PhotometricInterpretation", *REGION_TAGS)
_PREAMBLE = 132
_START = 2**16  # bytes; headers are rarely longer
_AT_ONCE = 256  # files whose beginnings are in memory


@dataclass(frozen=True, slots=True)
class UltrasoundObject:
    """One object. ``views`` are the texts that its view tags may be read as; ``coloured`` whether its pixels have colours, and
    ``flow`` whether it declares a region of colour flow."""

    path: Path = field(repr=False)
    uid: str = field(repr=False)
    patient: str = field(repr=False)
    views: tuple[str, ...] = field(repr=False)
    frames: int
    coloured: bool
    flow: bool


@dataclass(frozen=True)
class Index:
    """The objects of a folder, ordered by path, and the files passed over, counted by reason."""

    objects: tuple[UltrasoundObject, ...]
    skipped: Mapping[str, int]


def read_index(
    folder: Path, *, patient_tag: str | None, view_tags: Sequence[str], secondary_capture: bool, on_progress: Progress
) -> Index:
    """Every ultrasound object below ``folder``. Links are followed, but no folder is entered twice.

    ``patient_tag`` and ``view_tags`` are DICOM keywords. What cannot be used is counted, and stops nothing.
    """
    skipped = Counter[str]()
    files = sorted(_files(folder, skipped))
    classes = ULTRASOUND | SECONDARY_CAPTURE if secondary_capture else ULTRASOUND
    tags = [*_HEADER_TAGS, *([patient_tag] if patient_tag else ()), *view_tags]
    objects: dict[str, UltrasoundObject] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of odd values, and quotes them
        for done, (path, start) in enumerate(_starts(files), 1):
            on_progress("reading DICOM headers", done, len(files))
            result = (
                start
                if isinstance(start, str)
                else _object(path, start, tags, classes=classes, patient_tag=patient_tag, view_tags=view_tags)
            )
            if isinstance(result, str):
                skipped[result] += 1
            elif result.uid in objects:
                skipped[SECOND_COPY] += 1
            else:
                objects[result.uid] = result
    return Index(tuple(objects.values()), dict(sorted(skipped.items())))


def _starts(files: Sequence[Path]) -> Iterator[tuple[Path, bytes | str]]:
    """The beginning of each file, or in words why it has none.

    Disks are waited for in threads, a few hundred files at a time, while nothing is parsed: parsing holds the interpreter, and
    threads that parse beside each other take several times as long as one.
    """
    for first in range(0, len(files), _AT_ONCE):
        part = files[first : first + _AT_ONCE]
        yield from zip(part, in_threads(_start, part, "", lambda *_: None), strict=True)


def _start(path: Path) -> bytes | str:
    try:
        with path.open("rb") as file:
            return file.read(_START) or EMPTY
    except OSError:
        return UNREADABLE


def _files(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    waiting, entered = [folder], set[tuple[int, int]]()
    while waiting:
        place = waiting.pop()
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in entered:
                skipped["a link to a folder already read"] += 1
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append(Path(entry.path))
                    elif entry.is_file():
                        yield Path(entry.path)
                    else:
                        skipped["a broken link, or no file"] += 1
        except OSError:
            skipped["a folder that cannot be opened"] += 1


def _object(
    path: Path,
    start: bytes,
    tags: Sequence[str],
    *,
    classes: frozenset[str],
    patient_tag: str | None,
    view_tags: Sequence[str],
) -> UltrasoundObject | str:
    """The object at ``path`` that begins with ``start``, or in words why it is none to use."""
    if start[128:_PREAMBLE] != b"DICM":
        return NOT_DICOM
    try:
        header, ends_before_pixels = _header(path, start, tags)
    except OSError as error:
        return UNREADABLE if error.errno else DAMAGED
    except InvalidDicomError:
        return NOT_DICOM
    except Exception:  # a damaged header raises nearly anything, and no file may stop a study
        return DAMAGED
    try:
        return _described(path, header, classes, patient_tag, view_tags, ends_before_pixels=ends_before_pixels)
    except Exception:  # values are parsed when they are looked at
        return DAMAGED


def _header(path: Path, start: bytes, tags: Sequence[str]) -> tuple[Dataset, bool]:
    """``tags`` of the header of a file, and whether the file ends before pixels begin."""
    if len(start) == _START:
        with contextlib.suppress(Exception):  # cut off in the middle of whatever is there
            header, ended = _parsed(io.BytesIO(start), tags)
            if not ended:
                return header, False
        with path.open("rb") as file:
            return _parsed(file, tags)
    return _parsed(io.BytesIO(start), tags)


def _parsed(file: BinaryIO, tags: Sequence[str]) -> tuple[Dataset, bool]:
    header = dcmread(file, stop_before_pixels=True, specific_tags=list(tags))
    return header, not file.read(1)


def _described(
    path: Path,
    header: Dataset,
    classes: frozenset[str],
    patient_tag: str | None,
    view_tags: Sequence[str],
    *,
    ends_before_pixels: bool,
) -> UltrasoundObject | str:
    kind = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    if kind not in classes:
        return _other_kind(kind)
    if ends_before_pixels or not header.get("Rows") or not header.get("Columns"):
        return NO_PIXELS
    if not (uid := str(header.get("SOPInstanceUID") or "")):
        return DAMAGED
    return UltrasoundObject(
        path=path,
        uid=uid,
        patient=_texts(header, patient_tag)[0] if patient_tag else "",
        views=tuple(" ".join(texts).strip() for texts in itertools.product(*(_texts(header, tag) for tag in view_tags))),
        frames=max(1, int(header.get("NumberOfFrames") or 1)),
        coloured=not str(header.get("PhotometricInterpretation") or "").startswith("MONOCHROME"),
        flow=declared(header).flow,
    )


def _other_kind(uid: str) -> str:
    """What else it is, by the standard's own name; a name that is not the standard's is never told."""
    if uid in SECONDARY_CAPTURE:
        return "Secondary Capture (not allowed by images.secondary_capture)"
    name = UID(uid).name
    return f"another kind of object: {name}" if name != uid and uid.startswith("1.2.840.10008.") else "another kind of object"


def _texts(header: Dataset, tag: str) -> tuple[str, ...]:
    """What a tag may be read as; a coded value by its code or by its meaning. One empty text where there is nothing."""
    value = header.get(tag)
    if value is None:
        return ("",)
    if isinstance(value, Sequence) and value and isinstance(value[0], Dataset):
        names = [(item.get("CodeValue"), item.get("CodeMeaning")) for item in value]
        return tuple(str(name).strip() for pair in names for name in pair if name) or ("",)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return (" ".join(str(part).strip() for part in value),)
    return (str(value).strip(),)
