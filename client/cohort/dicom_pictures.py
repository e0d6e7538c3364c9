"""From a folder of DICOM objects, and what the hospital says of them, to the pictures of a cohort."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.cohort.dicom import Modality, Rules, has_flow
from client.cohort.dicom_index import Index, UltrasoundObject, read_index
from client.cohort.images import Box
from client.cohort.parallel import Progress, in_threads
from client.cohort.patterns import FilePattern
from client.cohort.pictures import DicomFrame, Picture, PictureRows, in_turn, lesion_boxes, path_of, scales_of
from client.cohort.tables import Table, listed, locate, row_filter
from client.site_config import Images
from shared_model.errors import CohortError, Fault

PATIENT_TAG = "PatientID"
_NOT_IN_TABLE = "not in the table of images"


@dataclass(frozen=True)
class _Facts:
    """What is known of one object, whoever says it: its patient, the spellings of its view, and its lesion."""

    patient: str
    views: tuple[str, ...]
    mask: Path | None = None
    box: Box | None = None
    mm_per_pixel: float | None = None


def dicom_folder(text: str, *, where: Path) -> Path:
    """The folder that ``images.dicom`` names.

    Raises:
        CohortError: there is none, or it is no folder.
    """
    folder = locate(text, base=where.parent, where=str(where), key="images.dicom")
    if not folder.is_dir():
        found = f"{folder} is a file" if folder.exists() else f"no such folder: {folder}"
        remedy = "check the path; it is relative to the configuration file"
        raise CohortError([Fault(str(where), "images.dicom", found, "a folder of DICOM files", remedy)])
    return folder


def list_dicom(
    table: Table | None,
    config: Images,
    *,
    patients: Sequence[str],
    keys: Mapping[str, str],
    views: Sequence[str],
    where: Path,
    on_progress: Progress,
) -> PictureRows:
    """Pictures of ``patients`` in the folder of ``config``, with what ``table`` says of them, if there is one.

    ``keys`` maps what identifies a patient there to all identifiers of the cohort table; ``views`` are the protocol's.

    Raises:
        CohortError: no object belongs to anyone, or a lesion box or a scale of the table holds what is no number.
    """
    folder = dicom_folder(config.dicom or "", where=where)
    told = table is not None and config.patient_id in table.columns
    index = read_index(
        folder,
        patient_tag=None if told else config.patient_id or PATIENT_TAG,
        view_tags=config.view.tags,
        secondary_capture=config.secondary_capture,
        on_progress=on_progress,
    )
    if not index.objects:
        raise CohortError([_nothing_there(folder, index, where)])
    facts = _by_tags(index) if table is None else _by_table(index, table, config, folder, where=where, told=told)
    skipped = Counter(index.skipped)
    skipped.update({_NOT_IN_TABLE: len(index.objects) - len(facts)} if len(facts) < len(index.objects) else {})
    nobody = sum(fact.patient not in keys for fact in facts.values())
    if nobody == len(facts):
        raise CohortError([_no_common_patient(facts, keys, config, where)])
    places = {patient: place for place, patient in enumerate(patients)}
    wanted = [item for item in index.objects if item.uid in facts and keys.get(facts[item.uid].patient) in places]
    flows = _flows(wanted, config, on_progress)
    pictures: list[list[Picture]] = [[] for _ in patients]
    unmapped = Counter[str]()
    for item in wanted:
        fact = facts[item.uid]
        place = places[keys[fact.patient]]
        shown = list(_shown(config.view.view_of(*fact.views), config.flow, flow=item.uid in flows))
        if not shown:
            unmapped[fact.views[0]] += 1
        for view, modality in shown:
            for number in frame_numbers(item.frames, config):
                frame = DicomFrame(number, modality, Rules.of(config))
                picture = Picture(place, views.index(view), item.path, fact.mask, fact.box, fact.mm_per_pixel, frame)
                pictures[place].append(picture)
    return PictureRows(tuple(p for own in pictures for p in in_turn(own)), dict(unmapped), nobody, dict(skipped))


def frame_numbers(frames: int, config: Images) -> range:
    """The frames of an object of ``frames`` to take, from 0."""
    if config.frames == "all":
        return range(frames)
    number = 0 if config.frames == "first" else frames // 2
    return range(number, number + 1)


def _shown(view: str | None, flow_view: str | None, *, flow: bool) -> Iterator[tuple[str, Modality]]:
    """What a picture of ``view`` becomes: itself, or with colour Doppler its grey levels and its flow."""
    if flow_view is None or not (flow or view == flow_view):
        if view is not None:
            yield view, "luminance"
        return
    if view is not None and view != flow_view:
        yield view, "grey"
    yield flow_view, "flow"


def _flows(items: Sequence[UltrasoundObject], config: Images, on_progress: Progress) -> set[str]:
    """The objects with colour Doppler: declared, or seen in the pixels. Nothing to find out where no view is for it."""
    if config.flow is None:
        return set()
    rules = Rules.of(config)
    unsure = [item for item in items if item.coloured and not item.flow]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of odd values, and quotes them
        seen = in_threads(
            lambda item: has_flow(item.path, rules, number=item.frames // 2), unsure, "looking for colour", on_progress
        )
    return {item.uid for item in items if item.flow} | {item.uid for item, found in zip(unsure, seen, strict=True) if found}


def _by_tags(index: Index) -> dict[str, _Facts]:
    return {item.uid: _Facts(item.patient, item.views) for item in index.objects}


def _by_table(index: Index, table: Table, config: Images, folder: Path, *, where: Path, told: bool) -> dict[str, _Facts]:
    """What the rows of ``table`` say of the objects that they name; ``told``: also whose they are."""
    base = table.path.parent
    if config.folder is not None:
        base = locate(config.folder, base=where.parent, where=str(where), key="images.folder")
    rows = row_filter(table, config.where, config)
    boxes = lesion_boxes(table, config, rows, where=str(where))
    scales = scales_of(table, config, rows, where=str(where))
    mask = FilePattern.parse(config.mask) if config.mask else None
    by_name = _by_name(index, folder)
    items = {item.uid: item for item in index.objects}
    facts: dict[str, _Facts] = {}
    for row, box, scale in zip(rows, boxes, scales, strict=True):
        cells = {column: cells[row] for column, cells in table.columns.items()}
        if config.uid is not None:
            item = items.get(cells[config.uid])
        else:
            item = by_name.get(FilePattern.parse(config.file or "").expand(cells).replace("\\", "/"))
        if item is None:
            continue
        facts[item.uid] = _Facts(
            patient=cells[config.patient_id or ""] if told else item.patient,
            views=table.texts(config.view.column, row) if config.view.column else item.views,
            mask=path_of(mask, cells, base) if mask else None,
            box=box,
            mm_per_pixel=scale,
        )
    if not facts:
        raise CohortError([_no_row_fits(index, table, config, where)])
    return facts


def _by_name(index: Index, folder: Path) -> dict[str, UltrasoundObject]:
    """Objects by their path below ``folder``, and by their bare name where only one has it."""
    names = Counter(item.path.name for item in index.objects)
    found = {item.path.name: item for item in index.objects if names[item.path.name] == 1}
    return found | {item.path.relative_to(folder).as_posix(): item for item in index.objects}


def _nothing_there(folder: Path, index: Index, where: Path) -> Fault:
    counts = "; ".join(f"{reason} ({count})" for reason, count in index.skipped.items()) or "no files"
    remedy = "name the folder of the exported ultrasound objects"
    return Fault(str(where), "images.dicom", f"no ultrasound object in {folder}: {counts}", "at least one", remedy)


def _no_row_fits(index: Index, table: Table, config: Images, where: Path) -> Fault:
    key = "images.file" if config.uid is None else "images.uid"
    expected = "SOP instance UIDs" if config.uid is not None else "file names, or paths below the folder of images.dicom"
    found = f"no row of {table.path.name} names one of the {len(index.objects)} ultrasound objects"
    return Fault(str(where), key, found, expected, "name the column that holds them, and check images.where")


def _no_common_patient(facts: Mapping[str, _Facts], keys: Mapping[str, str], config: Images, where: Path) -> Fault:
    held = listed(dict.fromkeys(fact.patient or "(empty)" for fact in facts.values()), limit=3)
    found = f"{config.patient_id or PATIENT_TAG} of the ultrasound objects holds {held}"
    key = "images.patient_id" if config.patient_column is None else "images.patient_column"
    expected = f"what the cohort table holds, such as {listed(sorted(keys), limit=3)}"
    remedy = "name the tag that holds these identifiers, or in images.patient_column the cohort column that holds those"
    return Fault(str(where), key, found, expected, remedy)
