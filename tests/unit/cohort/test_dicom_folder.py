"""A folder as PACS exports it: whose objects they are, of which view, and what is passed over."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.cohort import Cohort
from client.cohort.dicom_index import read_index
from shared_model.errors import CohortError, ConfigurationError
from tests.dicoms import CT, MULTI_FRAME, SECONDARY_CAPTURE, coded, region, speckle, write_object

WHOLE = [region((0, 0, 39, 29))]
BY_TAG = {"tag": "SeriesDescription", "match": {"trans": "transverse", "long|sag": "longitudinal"}}
IMAGES = {"table": None, "file": None, "patient_id": None, "view": BY_TAG | {"column": None, "codes": None}, "dicom": "pacs"}


def flat(level: int) -> np.ndarray:
    return np.full((30, 40), level, dtype=np.uint8)


@pytest.fixture
def pacs(hospital, rows):
    """Two objects of each patient: level 10 * k transverse, plus 5 longitudinal, in folders as a PACS names them."""
    for k, row in enumerate(rows):
        for number, (name, extra) in enumerate((("Thyroid TRANS li", 0), ("Thyroid Sag re", 5))):
            write_object(
                hospital.folder / f"pacs/{k:02}/IM{number}",
                flat(10 * k + extra),
                PatientID=row["id"],
                SeriesDescription=name,
                SequenceOfUltrasoundRegions=WHOLE,
                SOPInstanceUID=f"1.2.3.{k}.{number}",
            )
    return hospital


def load(hospital: Any, images: Mapping[str, Any] | None = None, *, study: Mapping[str, Any] | None = None) -> Cohort:
    return hospital.load({"images": IMAGES | (images or {})}, {"images": study or {}})


def faults(hospital: Any, images: Mapping[str, Any], kind: type[Exception] = ConfigurationError) -> dict[str, str]:
    with pytest.raises(kind) as caught:
        load(hospital, images)
    return {fault.key: f"{fault.found} | {fault.expected} | {fault.remedy}" for fault in caught.value.faults}


def middles(cohort: Cohort) -> list[list[int]]:
    return [cohort.tensors.images[own[own >= 0]][:, 0, 8, 8].tolist() for own in cohort.tensors.slots]


def test_patients_and_views_by_tags(pacs):
    cohort = load(pacs)
    assert middles(cohort) == [[10 * k, 10 * k + 5] for k in range(12)]
    assert cohort.findings.images.by_view == {"transverse": 12, "longitudinal": 12}
    assert cohort.findings.images.skipped == {}
    assert load(pacs).findings.images.cache == "read"
    assert "changed" in load(pacs, {"burned_in": "keep"}).findings.images.cache


def test_the_tag_may_hold_what_another_column_of_the_cohort_table_holds(pacs, rows):
    pacs.write("patients.csv", [row | {"id": f"case {k}", "mrn": row["id"]} for k, row in enumerate(rows)])
    assert load(pacs, {"patient_column": "mrn"}).findings.images.used == 24
    assert "such as case 0" in faults(pacs, {}, CohortError)["images.patient_id"]
    assert "no column" in faults(pacs, {"patient_column": "mnr"})["images.patient_column"]
    rows[1]["mrn"] = rows[0]["mrn"] = "x"
    pacs.write("patients.csv", rows)
    assert "1 values" in faults(pacs, {"patient_column": "mrn"}, CohortError)["images.patient_column"]


def test_views_by_code_by_meaning_and_by_several_tags(hospital, rows):
    for number, (value, side) in enumerate((("T1", "R"), ("T1", "L"), ("T2", "R"), ("T2", ""))):
        write_object(
            hospital.folder / f"pacs/{number}",
            flat(number),
            PatientID="p00",
            ViewCodeSequence=coded(value, {"T1": "Transverse", "T2": "Sagittal"}[value]),
            ImageLaterality=side,
            SequenceOfUltrasoundRegions=WHOLE,
        )
    view = {"tag": ["ViewCodeSequence", "ImageLaterality"], "codes": {"T1 L": "transverse", "Sagittal R": "longitudinal"}}
    view |= {"column": None}
    cohort = load(hospital, {"view": view})
    assert middles(cohort)[0] == [1, 2]
    assert cohort.findings.images.unmapped_views == {"T1 R": 1, "T2": 1}


@pytest.mark.parametrize("by", ["uid", "path", "name"])
def test_a_table_may_say_more_of_each_object(pacs, by):
    names = {"uid": "1.2.3.{}.0", "path": "{:02}/IM0", "name": "only{}.dcm"}
    if by == "name":
        for k in range(3):
            (pacs.folder / f"pacs/{k:02}/IM0").rename(pacs.folder / f"pacs/{k:02}/only{k}.dcm")
    lesion = {"x0": 10, "y0": 10, "x1": 20, "y1": 20}
    pacs.write("views.csv", [{"key": names[by].format(k), "view": "L", "case": f"p{k:02}"} | lesion for k in (2, 1, 0)])
    changes = {"table": "views.csv", "view": {"column": "view", "codes": {"L": "longitudinal"}, "tag": None, "match": None}}
    changes |= {"uid": "key"} if by == "uid" else {"file": "key"}
    cohort = load(pacs, changes)
    assert middles(cohort)[:4] == [[0], [10], [20], []]
    assert cohort.findings.images.skipped == {"not in the table of images": 21}
    boxed = changes | {"patient_id": "case", "roi": ["x0", "y0", "x1", "y1"]}
    assert load(pacs, boxed, study={"crop": "lesion", "lesion_mask": True}).findings.images.used == 3
    pacs.write("views.csv", [{"key": "7", "view": "L", "case": "p00"}])
    assert "no row of views.csv" in next(iter(faults(pacs, changes, CohortError).values()))


@pytest.mark.parametrize(("frames", "expected"), [("first", [0]), ("middle", [20]), ("all", [0, 10, 20, 30])])
def test_frames_of_a_clip(hospital, frames, expected):
    clip = np.stack([flat(10 * number) for number in range(4)])
    write_object(
        hospital.folder / "pacs/clip",
        clip,
        PatientID="p03",
        SOPClassUID=MULTI_FRAME,
        SequenceOfUltrasoundRegions=WHOLE,
        SeriesDescription="trans",
    )
    cohort = load(hospital, {"frames": frames}, study={"per_patient": 8})
    assert middles(cohort)[3] == expected


def test_colour_doppler_becomes_two_views(hospital):
    box = region((0, 0, 79, 59))
    grey = speckle(60, 80)
    doppler = np.repeat(grey[..., None], 3, axis=2)
    doppler[20:40, 30:60] = (255, 0, 0)
    plain, declared = [box], [box, region((20, 10, 60, 50), kind=2)]
    for name, patient, pixels, regions in (
        ("seen", "p00", doppler, plain),
        ("declared", "p01", doppler, declared),
        ("silent", "p02", np.repeat(grey[..., None], 3, axis=2), declared),
        ("bmode", "p03", np.repeat(grey[..., None], 3, axis=2), plain),
    ):
        write_object(
            hospital.folder / f"pacs/{name}",
            pixels,
            PatientID=patient,
            SequenceOfUltrasoundRegions=regions,
            SeriesDescription="trans",
        )
    views = {"views": {"doppler": {"modality": "doppler"}}, "per_patient": 3}
    cohort = load(hospital, {"flow": "doppler"}, study=views)
    assert cohort.findings.images.by_view == {"transverse": 4, "longitudinal": 0, "doppler": 3}
    brightest = {
        (patient, int(cohort.tensors.views[patient, slot])): int(cohort.tensors.images[index, 0].max())
        for patient in range(4)
        for slot, index in enumerate(cohort.tensors.slots[patient].tolist())
        if index >= 0
    }
    assert brightest[0, 2] == brightest[1, 2] == 255
    assert brightest[2, 2] == 0
    assert max(brightest[k, 0] for k in range(4)) <= grey.max()
    assert "no such" in faults(hospital, {"dicom": "pasc"}, CohortError)["images.dicom"]


def test_whatever_else_lies_there_is_counted_and_survived(pacs):
    folder = pacs.folder / "pacs/odd"
    write_object(folder / "ct", flat(1), SOPClassUID=CT, PatientID="p00")
    write_object(folder / "screen", flat(1), SOPClassUID=SECONDARY_CAPTURE, PatientID="p00", SeriesDescription="trans")
    whole = write_object(folder / "cut", flat(1), PatientID="p00", SeriesDescription="trans", SequenceOfUltrasoundRegions=WHOLE)
    content = whole.read_bytes()
    whole.write_bytes(content[:-300])  # a whole header: found to be damaged when its pixels are wanted
    (folder / "torn").write_bytes(content[:500])
    (folder / "no pixels").write_bytes(content[: content.index(b"\xe0\x7f\x10\x00")])
    (folder / "garbage").write_bytes(content[:140] + bytes(range(256)) * 4)
    (folder / "empty").write_bytes(b"")
    (folder / "notes.txt").write_text("patient p00 phoned")
    (folder / "again").write_bytes((pacs.folder / "pacs/00/IM0").read_bytes())
    (folder / "loop").symlink_to(pacs.folder / "pacs", target_is_directory=True)
    (folder / "nowhere").symlink_to(folder / "gone")
    cohort = load(pacs, {"max_unusable": 1.0}, study={"per_patient": 4})
    skipped = dict(cohort.findings.images.skipped)
    assert skipped.pop("damaged header", 0) + skipped.pop("no pixels", 0) + skipped.pop("another kind of object", 0) == 3
    assert skipped == {
        "another kind of object: CT Image Storage": 1,
        "Secondary Capture (not allowed by images.secondary_capture)": 1,
        "empty file": 1,
        "not DICOM": 1,
        "a second copy of an object": 1,
        "a link to a folder already read": 1,
        "a broken link, or no file": 1,
    }
    assert [file.reason for file in cohort.findings.images.unusable] == ["damaged or truncated"]
    assert cohort.findings.images.used == 24
    captured = load(pacs, {"max_unusable": 1.0, "secondary_capture": True, "region": [0, 0, 40, 30]})
    assert captured.findings.images.found == cohort.findings.images.found + 1


def test_a_file_and_a_folder_that_may_not_be_read_are_counted(pacs, monkeypatch):
    opened, scanned = Path.open, os.scandir

    def refuse(path: Any) -> None:
        if Path(path) in {pacs.folder / "pacs/00/IM0", pacs.folder / "pacs/01"}:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", lambda path, *how, **options: refuse(path) or opened(path, *how, **options))
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or scanned(path))  # whoever runs the tests may be root
    assert load(pacs).findings.images.skipped == {"cannot be opened": 1, "a folder that cannot be opened": 1}


def test_a_folder_without_ultrasound_says_what_it_holds(hospital):
    write_object(hospital.folder / "pacs/ct", flat(1), SOPClassUID=CT)
    assert "CT Image Storage (1)" in faults(hospital, {}, CohortError)["images.dicom"]


def test_objects_of_others_are_counted(pacs, rows):
    pacs.write("patients.csv", rows[2:])
    assert load(pacs).findings.images.of_nobody == 4


@pytest.mark.parametrize(
    ("images", "key", "words"),
    [
        ({"patient_id": "PatienID"}, "images.patient_id", '"PatientID"'),
        ({"view": BY_TAG | {"tag": "SeriesDescripton"}}, "images.view.tag", "SeriesDescription"),
        ({"view": BY_TAG | {"match": {"(": "transverse"}}}, "images.view.match.(", "regular expression"),
        ({"view": BY_TAG | {"match": {"t": "transvers"}}}, "images.view.match.t", 'did you mean "transverse"'),
        ({"flow": "dopler"}, "images.flow", "a view of study"),
        ({"file": "f"}, "images.file", "images.table"),
        ({"uid": "u"}, "images.uid", "images.table"),
        ({"region": [5, 0, 5, 9]}, "images.region", "upper left"),
        ({"view": {"column": "v", "codes": {"a": "transverse"}}}, "images.view.column", "images.table"),
        ({"dicom": None}, "images.table", 'dicom = "folder/"'),
        ({"dicom": None, "frames": "all"}, "images.frames", "images.dicom"),
        ({"table": "images.csv"}, "images.file", "one of images.file and images.uid"),
        ({"table": "images.csv", "file": "file", "patient_id": "pat"}, "images.patient_id", "keyword of a DICOM tag"),
        ({"dicom": "patients.csv"}, "images.dicom", "is a file"),
        ({"dicom": "${NO_SUCH_PLACE}/x"}, "images.dicom", "export NO_SUCH_PLACE"),
    ],
)
def test_faults_of_the_configuration(pacs, images, key, words):
    kind = CohortError if "is a file" in words or "export" in words else ConfigurationError
    view = images.get("view", BY_TAG)
    view = {"column": None, "tag": None, "match": None, "codes": None} | view
    assert words in faults(pacs, images | {"view": view}, kind)[key]


@pytest.mark.parametrize("size", [100, 2**16 - 1, 2**16, 200_000])
def test_headers_of_any_length_are_read(tmp_path, size):
    """Also those in which something larger than what is read at first comes before the pixels, or before the tags wanted."""
    note = "x" * (size - size % 2)
    write_object(tmp_path / "before", flat(1), PatientID="p", SOPInstanceUID="1.2.1", LongCodeValue=note)
    write_object(tmp_path / "after", flat(1), PatientID="p", SOPInstanceUID="1.2.2", TextValue=note)
    bare = write_object(tmp_path / "bare", flat(1), PatientID="p", SOPInstanceUID="1.2.3", LongCodeValue=note)
    content = bare.read_bytes()
    bare.write_bytes(content[: content.index(b"\xe0\x7f\x10\x00")])
    index = read_index_of(tmp_path)
    assert [found.uid for found in index.objects] == ["1.2.2", "1.2.1"]
    assert index.skipped == {"no pixels": 1}


def test_twenty_thousand_files_take_seconds(tmp_path):
    content = write_object(tmp_path / "one", speckle(16, 16), PatientID="p").read_bytes()
    uid = next(iter(read_index_of(tmp_path).objects)).uid.encode()
    for number in range(500):
        replaced = content.replace(uid, str(number).zfill(len(uid)).encode())
        (tmp_path / f"us{number}").write_bytes(replaced)
    for number in range(19_500):
        (tmp_path / f"text{number}").write_bytes(b"x")
    started = time.perf_counter()
    index = read_index_of(tmp_path)
    assert len(index.objects) == 501
    assert index.skipped == {"not DICOM": 19_500}
    assert time.perf_counter() - started < 60.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_objects_are_checked(hospital, rows, monkeypatch):
    """As a PACS gives out a whole department: few of the objects are ultrasound of the study's patients."""
    monkeypatch.setenv("CONSILIUM_CACHE", str(hospital.folder.parent / "cache"))
    folder, uid = hospital.folder / "pacs", "1.2.826.0.1.1000000000"
    shares = {"ct": 60, "stranger": 25, "own": 5, "text": 4, "empty": 2, "torn": 2, "no pixels": 2}
    kinds = {
        "ct": {"SOPClassUID": CT, "PatientID": "p00"},
        "stranger": {"PatientID": "q00", "SeriesDescription": "trans"},
        "own": {"PatientID": "p00", "SeriesDescription": "trans"},
    }
    content = {
        kind: write_object(
            hospital.folder / "one",
            speckle(16, 16),
            SOPInstanceUID=uid,
            SequenceOfUltrasoundRegions=[region((0, 0, 15, 15))],
            **tags,
        ).read_bytes()
        for kind, tags in kinds.items()
    }
    content |= {"text": b"a note", "empty": b"", "torn": content["own"][:300]}
    content["no pixels"] = content["own"][: content["own"].index(b"\xe0\x7f\x10\x00")]
    for number in range(100_000):
        kind = [kind for kind, share in shares.items() for _ in range(share)][number % 100]
        place = folder / f"{number // 1000:02}"
        place.mkdir(parents=True, exist_ok=True)
        own = content[kind].replace(uid.encode(), str(number + 10**21).encode())
        (place / f"IM{number}").write_bytes(own.replace(b"p00", rows[number // 100 % 12]["id"].encode()))
    found = load(hospital, {"region": [0, 0, 16, 16]}).findings.images
    assert found.skipped == {
        "another kind of object: CT Image Storage": 60_000,
        "not DICOM": 4_000,
        "empty file": 2_000,
        "no pixels": 4_000,
    }
    assert (found.of_nobody, found.beyond_limit) == (25_000, 5_000 - found.used)


def read_index_of(folder: Path) -> Any:
    return read_index(
        folder,
        patient_tag="PatientID",
        view_tags=["SeriesDescription"],
        secondary_capture=False,
        on_progress=lambda *_: None,
    )
