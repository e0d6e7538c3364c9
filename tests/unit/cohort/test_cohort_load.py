import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.cohort import survey
from client.site_config import read_site
from shared_model.errors import CohortError, ConfigurationError
from shared_model.inputs import ABSENT

CLINICAL = {"images": None}


def faults(hospital, site=None, study=None, *, kind: type[ConfigurationError] | type[CohortError]) -> dict[str, str]:
    with pytest.raises(kind) as caught:
        hospital.load(site, study)
    return {fault.key: str(fault) for fault in caught.value.faults}


def test_every_patient_becomes_what_the_files_say(hospital, rows):
    cohort = hospital.load()
    tensors = cohort.tensors
    assert cohort.patients == tuple(row["id"] for row in rows)
    assert tensors.label.tolist() == [row["llnm"] for row in rows]
    np.testing.assert_allclose(tensors.numeric[:, 0], [row["age"] for row in rows])
    np.testing.assert_allclose(tensors.numeric[:, 1], [np.log(10 * float(row["size_cm"])) for row in rows], rtol=1e-6)
    assert tensors.numeric_present.all()
    assert tensors.categorical[:, 0].tolist() == [k % 2 for k in range(12)]
    assert tensors.images.shape == (24, 1, 16, 16)
    assert (tensors.views == torch.tensor([0, 1])).all()  # the protocol's order, not the file's
    centers = tensors.images[tensors.slots][:, :, 0, 8, 8]  # [P, V]
    assert centers.tolist() == [[10 * k, 10 * k + 5] for k in range(12)]
    assert cohort.flow.found == 12
    assert (cohort.flow.images_found, cohort.flow.images_unusable) == (24, 0)
    assert {part: len(index) for part, index in cohort.parts.items()} == {"train": 7, "tune": 2, "test": 3}
    assert torch.equal(torch.cat(list(cohort.parts.values())).sort().values, torch.arange(12))


def test_the_order_of_rows_changes_nothing(hospital, rows):
    before = hospital.load()
    random.Random(1).shuffle(rows)
    hospital.write("patients.csv", rows)
    after = hospital.load()
    assert after.patients == before.patients
    assert all(torch.equal(after.parts[part], before.parts[part]) for part in before.parts)
    assert torch.equal(after.tensors.numeric, before.tensors.numeric)
    assert after.findings.images.cache == "read"


def test_a_batch_has_masks_for_what_is_missing(hospital, rows):
    rows[0] |= {"age": "", "sex": ""}
    hospital.write("patients.csv", rows)
    (hospital.folder / "img/p00_T.png").unlink()
    cohort = hospital.load()
    batch = cohort.tensors.batch(torch.tensor([0, 1]))
    assert batch.numeric_present.tolist() == [[False, True], [True, True]]
    assert batch.numeric[0, 0] == 0.0
    assert batch.categorical.tolist() == [[ABSENT], [1]]
    assert batch.views.tolist() == [[1, ABSENT], [0, 1]]
    assert batch.images[0, 1].abs().max() == 0.0
    assert batch.images[1, 0, 0, 8, 8] == pytest.approx(10 / 255)


def test_a_clinical_only_site_takes_part_in_an_image_study(hospital):
    cohort = hospital.load(CLINICAL)
    assert cohort.tensors.images.shape == (0, 1, 16, 16)
    assert cohort.tensors.slots.shape == (12, 2)
    assert not cohort.tensors.batch(torch.arange(3)).view_present.any()
    assert cohort.findings.images is None


def test_an_image_only_site_takes_part_too(hospital):
    cohort = hospital.load({"cohort": {"variables": None}})
    assert not cohort.tensors.numeric_present.any()
    assert (cohort.tensors.categorical == ABSENT).all()
    assert sum("not mapped" in notice.what for notice in cohort.findings.notices) == 3


def test_a_study_without_images_leaves_them_alone(hospital):
    cohort = hospital.load(None, {"images": None, "network": {"kind": "clinical_only"}})
    assert cohort.tensors.slots.shape == (12, 0)
    assert cohort.tensors.batch(torch.arange(2)).images.shape[:2] == (2, 0)


def test_the_flow_counts_everyone_who_is_left_out(hospital, rows):
    rows[0]["llnm"], rows[1]["llnm"], rows[2]["llnm"] = "", "x", "NA"
    rows[3]["size_cm"] = ""
    rows.append(rows[4] | {"id": ""})
    hospital.write("patients.csv", rows)
    label = {"ignore": ["x"]}
    cohort = hospital.load({"cohort": {"label": label, "missing": ["NA"], "require": ["size", "age"]}})
    assert cohort.flow.found == 12
    assert cohort.flow.excluded == {"no label": 2, "label set aside": 1, "missing required variable: size": 1}
    assert len(cohort) == 8
    assert cohort.findings.rows_without_id == 1
    assert cohort.findings.ignored_labels == {"x": 1}
    assert cohort.flow.images_found == 16  # only images of included patients are looked at


def test_rows_of_a_patient_share_what_they_know(hospital, rows):
    rows.append(rows[0] | {"llnm": "", "age": ""})
    hospital.write("patients.csv", rows)
    cohort = hospital.load()
    assert len(cohort) == 12
    assert cohort.tensors.numeric[0, 0] == 30


def test_a_split_column_is_followed(hospital, rows):
    rows[0]["part"] = "c"
    hospital.write("patients.csv", rows)
    cohort = hospital.load({"split": {"column": "part", "codes": {"a": "train", "b": "test"}}})
    assert [cohort.patients[k] for k in cohort.parts["train"]] == ["p02", "p04", "p06", "p08", "p10"]
    assert cohort.parts["tune"].shape == (0,)
    assert cohort.parts["tune"].dtype == torch.int64
    assert cohort.flow.excluded == {"in no part of the split": 1}
    assert cohort.findings.unlisted_parts == {"c": 1}


def test_a_cohort_of_one(hospital, rows):
    hospital.write("patients.csv", rows[:1])
    cohort = hospital.load()
    assert {part: len(index) for part, index in cohort.parts.items()} == {"train": 1, "tune": 0, "test": 0}


def test_configuration_faults_come_together(hospital):
    site = {
        "cohort": {
            "patient_id": "patient_id",
            "require": ["weight"],
            "variables": {
                "age": {"unit": "year"},
                "size": {"unit": None},
                "sex": {"unit": "mm", "combine": "mean", "codes": {"F": "femal"}},
                "colour": {"column": "sex"},
            },
        },
        "images": {"view": {"codes": {"T": "transversal"}}, "roi": ["x0", "y0", "x2", "y1"], "mask": "m/{id"},
        "split": {"column": "parts"},
    }
    found = faults(hospital, site, kind=ConfigurationError)
    assert set(found) == {
        "cohort.patient_id",
        "cohort.require",
        "cohort.variables.age.unit",
        "cohort.variables.size.unit",
        "cohort.variables.sex.unit",
        "cohort.variables.sex.combine",
        "cohort.variables.sex.codes.F",
        "cohort.variables.colour",
        "images.view.codes.T",
        "images.roi",
        "images.mask",
        "split.column",
    }
    assert 'did you mean "years"?' in found["cohort.variables.age.unit"]
    assert 'did you mean "transverse"?' in found["images.view.codes.T"]
    assert "id, age, size_cm, sex, llnm, part" in found["cohort.patient_id"]


def test_a_unit_for_what_has_none_and_a_code_that_is_no_number(hospital):
    study = {"variables": {"age": {"unit": None}}}
    found = faults(hospital, {"cohort": {"variables": {"age": {"codes": {"x": "old"}}}}}, study, kind=ConfigurationError)
    assert set(found) == {"cohort.variables.age.unit", "cohort.variables.age.codes.x"}


def test_unset_variables_and_missing_tables_come_together(hospital, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    site = {"cohort": {"table": "${NOWHERE}/p.csv"}, "images": {"table": "image.csv"}}
    found = faults(hospital, site, kind=CohortError)
    assert "export NOWHERE=" in found["cohort.table"]
    assert 'did you mean "images.csv"?' in found["images.table"]


def test_a_column_of_a_repeated_name_cannot_be_used(hospital):
    (hospital.folder / "patients.csv").write_text("id,age,size_cm,sex,llnm,age\np00,1,1,F,1,2\n")
    assert "several columns" in faults(hospital, kind=ConfigurationError)["cohort.variables.age.column"]


def change(rows: list[dict[str, Any]], place: int, **cells: Any) -> None:
    rows[place] |= cells


@pytest.mark.parametrize(
    ("site", "edit", "key", "words"),
    [
        ({"where": {"sex": "K"}}, None, "cohort.where", 'sex holds "F" (6), "M" (6)'),
        ({}, lambda rows: change(rows, 0, llnm=2), "cohort.label", 'also holds "2" (1)'),
        ({"label": {"positive": ["y"], "negative": ["n"], "ignore": [0, 1]}}, None, "cohort.label", "no labelled patient"),
        ({}, lambda rows: [row.update(llnm="") for row in rows], "cohort.label", "empty (12)"),
        ({}, lambda rows: change(rows, 0, id="p01"), "llnm", "different labels: p01"),
        ({}, lambda rows: change(rows, 3, id="p00"), "cohort.variables.age.combine", "33 and 30"),
        ({}, lambda rows: [row.update(id="") for row in rows], "cohort.patient_id", "#row"),
        ({"require": ["sex"], "missing": ["F", "M"]}, None, "cohort.require", "missing required variable: sex (12"),
        (
            {"variables": {"size": {"unit": "mm"}}},
            lambda rows: [row.update(size_cm="0.7") for row in rows],
            "cohort.variables.size.unit",
            'set unit = "cm"',
        ),
    ],
)
def test_faults_of_the_table(hospital, rows, site, edit, key, words):
    if edit:
        edit(rows)
        rows.sort(key=lambda row: row["age"], reverse=True)
        hospital.write("patients.csv", rows)
    found = faults(hospital, CLINICAL | {"cohort": site}, kind=CohortError)
    assert words in found[key]


def test_a_misspelt_filter_value_is_recognised(hospital):
    found = faults(hospital, {"cohort": {"where": {"id": "p0O"}}}, kind=CohortError)
    assert "did you mean" in found["cohort.where"]


def test_a_patient_in_two_parts_and_nobody_in_one(hospital, rows):
    split = {"column": "part", "codes": {"a": "train", "b": "test"}}
    hospital.write("patients.csv", [*rows, rows[0] | {"part": "b"}])
    found = faults(hospital, {"split": split}, kind=CohortError)
    assert "patients in two parts: p00 (train and test)" in next(iter(found.values()))
    hospital.write("patients.csv", rows)
    found = faults(hospital, {"split": {"column": "part"}}, kind=CohortError)
    assert '"a" (6), "b" (6)' in found["split.codes"]


def test_unusable_images_are_counted_listed_and_left_out(hospital):
    folder = hospital.folder / "img"
    (folder / "p00_T.png").write_bytes(b"")
    (folder / "p00_L.png").write_bytes(b"<html>please log in</html>")
    (folder / "p01_T.png").unlink()
    cohort = hospital.load({"images": {"max_unusable": 0.2}})
    assert {(Path(file.file).name, file.reason) for file in cohort.findings.images.unusable} == {
        ("p00_T.png", "empty file"),
        ("p00_L.png", "a web page (HTML), not an image"),
        ("p01_T.png", "no such file"),
    }
    assert cohort.flow.images_unusable == 3
    assert cohort.findings.images.patients_without == 1
    assert cohort.findings.images.by_view == {"transverse": 10, "longitudinal": 11}
    assert (cohort.tensors.slots[0] == ABSENT).all()
    found = faults(hospital, kind=CohortError)["images.max_unusable"]
    assert "3 of 24 images" in found
    assert "p00_L.png: a web page" in found


def test_a_patients_next_image_takes_the_place_of_an_unusable_one(hospital):
    images = [
        {"patient": "p00", "file": f"img/p00_{name}.png", "view": view}
        for name, view in (("T", "T"), ("b", "T"), ("c", "T"), ("L", "L"))
    ]
    hospital.write("images.csv", images)
    for name, level in (("b", 1), ("c", 2)):
        hospital.picture(f"img/p00_{name}.png", np.full((16, 16), level, dtype=np.uint8))

    def centers() -> list[int]:
        tensors = hospital.load({"images": {"max_unusable": 1.0}}).tensors
        return tensors.images[tensors.slots[0]][:, 0, 8, 8].tolist()

    assert centers() == [0, 5]  # each view before a second of one view
    (hospital.folder / "img/p00_L.png").write_bytes(b"")
    assert centers() == [0, 1]
    (hospital.folder / "img/p00_T.png").write_bytes(b"")
    assert centers() == [1, 2]


def test_boxes_and_masks_become_a_channel(hospital):
    study = {"images": {"lesion_mask": True, "crop": "lesion", "context": 0.0}}
    roi = ["x0", "y0", "x1", "y1"]
    cohort = hospital.load({"images": {"roi": roi}}, study)
    assert cohort.tensors.images.shape == (24, 2, 16, 16)
    assert cohort.tensors.images[0, 1].float().mean() == pytest.approx(255 / 2, rel=0.1)  # a 10 x 5 box in a square of 10
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[5:15, 5:15] = 1
    for name in cohort.patients:
        hospital.picture(f"masks/{name}.png", mask)
    cohort = hospital.load({"images": {"mask": "masks/{patient}.png"}}, study)
    assert (cohort.tensors.images[:, 1] == 255).all()


def test_a_lesion_crop_without_lesions_is_refused_with_the_reason(hospital):
    """Before any picture is read where the site never says where lesions are; afterwards where too many cells are empty."""
    asked = {"images": {"crop": "lesion"}}
    assert "where the lesion is" in faults(hospital, None, asked, kind=ConfigurationError)["images.roi"]
    boxes = ["x0", "y0", "x1", "y1"]
    rows = [
        {"patient": f"p{k:02}", "file": f"img/p{k:02}_{view}.png", "view": view, "x0": 2, "y0": 2, "x1": 20, "y1": 20}
        for k in range(12)
        for view in "TL"
    ]
    hospital.write("images.csv", [row | dict.fromkeys(boxes, "") if k < 7 else row for k, row in enumerate(rows)])
    found = faults(hospital, {"images": {"roi": boxes}}, asked, kind=CohortError)["images.max_unusable"]
    assert "7 of 24 images are unusable: no lesion box (7)" in found
    assert "and 2 more" in found
    assert "check images.roi" in found
    assert "export" not in found


def test_faults_of_the_image_table(hospital):
    assert "are no numbers: T, L" in faults(hospital, {"images": {"roi": ["x0", "y0", "view", "y1"]}}, kind=CohortError)[
        "images.roi"
    ].replace("L, T", "T, L")
    assert "such as T" in faults(hospital, {"images": {"patient_id": "view"}}, kind=CohortError)["images.patient_id"].replace(
        "such as L, T", "such as T"
    )
    assert "passes" in faults(hospital, {"images": {"where": {"view": "X"}}}, kind=CohortError)["images.where"]
    assert (
        "table of their own"
        in faults(hospital, {"images": {"patient_id": "#row"}}, kind=ConfigurationError)["images.patient_id"]
    )


def test_images_of_others_and_of_other_views_are_counted(hospital, rows):
    hospital.write("patients.csv", rows[1:])
    cohort = hospital.load({"images": {"view": {"codes": None, "column": "view"}}})
    assert cohort.findings.images.unmapped_views == {"L": 11, "T": 11}
    assert cohort.findings.images.of_nobody == 2
    assert cohort.findings.images.patients_without == 11


def test_the_cache_is_read_when_nothing_changed_and_rebuilt_when_anything_did(hospital):
    def state(site=None, study=None) -> str:
        return hospital.load(site, study).findings.images.cache

    assert state() == "built"
    assert state() == "read"
    hospital.picture("img/p03_T.png", np.full((20, 30), 99, dtype=np.uint8))
    assert "changed" in state()
    assert state() == "read"
    assert "changed" in state(None, {"images": {"size": 24}})
    assert "changed" in state({"images": {"view": {"codes": {"T": "longitudinal", "L": "transverse"}}}})
    (file,) = (hospital.folder / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert "damaged" in state({"images": {"view": {"codes": {"T": "longitudinal", "L": "transverse"}}}})


def test_a_cached_cohort_is_the_same_cohort(hospital):
    (hospital.folder / "img/p05_T.png").write_bytes(b"")
    first, second = hospital.load(), hospital.load()
    assert second.findings.images.cache == "read"
    assert second.findings.images.unusable == first.findings.images.unusable
    for name in ("images", "slots", "views"):
        assert torch.equal(getattr(second.tensors, name), getattr(first.tensors, name))


def test_no_identifier_is_in_the_cache(hospital, rows):
    hospital.load()
    (file,) = (hospital.folder / "cache").rglob("*.safetensors")
    content = file.read_bytes()
    assert not any(row["id"].encode() in content for row in rows)


def test_without_a_cache_the_site_still_takes_part(hospital, monkeypatch):
    monkeypatch.setenv("CONSILIUM_CACHE", str(hospital.folder / "patients.csv"))
    cohort = hospital.load()
    assert cohort.findings.images.cache.startswith("not kept")
    assert any("CONSILIUM_CACHE" in notice.remedy for notice in cohort.findings.notices)


def test_progress_is_told(hospital):
    from client.cohort import load_cohort

    told: list[tuple[str, int, int]] = []
    load_cohort(hospital.config(), hospital.protocol(), where=hospital.where, on_progress=lambda *step: told.append(step))
    assert told[-1] == ("reading images", 24, 24)


def test_identifiers_do_not_show_in_a_log(hospital):
    assert "p00" not in repr(hospital.load()).replace("img/p00", "")


def test_a_survey_needs_no_study(hospital):
    findings = survey(hospital.config(), where=hospital.where)
    assert findings.included == 12
    assert sum(counts.patients for counts in findings.parts.values()) == 12
    with pytest.raises(ConfigurationError, match="no column"):
        survey(hospital.config({"cohort": {"variables": {"age": {"column": "x"}}}}), where=hospital.where)


def test_paths_are_relative_to_the_configuration(hospital, monkeypatch, tmp_path_factory):
    path, _ = hospital.save()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert survey(read_site(path), where=path).included == 12


def test_pictures_of_known_scale_show_millimetres_and_others_are_counted(hospital):
    levels = np.zeros((60, 60), dtype=np.uint8)
    levels[20:40, 20:40] = 200  # 20 pixels
    for k in range(12):
        hospital.picture(f"img/p{k:02}_T.png", levels)
    rows = [{"patient": f"p{k:02}", "file": f"img/p{k:02}_T.png", "view": "T", "mm": "0.2" if k else ""} for k in range(12)]
    hospital.write("images.csv", rows)
    study = {"images": {"mm_per_pixel": 0.5, "per_patient": 1}}
    cohort = hospital.load({"images": {"mm_per_pixel": "mm"}}, study)
    widths = (cohort.tensors.images[:, 0, 8] > 100).sum(dim=1)
    assert widths.tolist() == [6, *[8] * 11]  # 16 / 60 of 20 pixels; 4 mm at 0.5
    assert cohort.findings.images.unscaled == 1
    assert any("1 of 12" in notice.what for notice in cohort.findings.notices)
    again = hospital.load({"images": {"mm_per_pixel": "mm"}}, study)
    assert (again.findings.images.cache, again.findings.images.unscaled) == ("read", 1)
    assert hospital.load({"images": {"mm_per_pixel": 0.2}}, study).findings.images.unscaled == 0
    assert hospital.load().findings.images.unscaled == 0


@pytest.mark.parametrize("cell", ["0", "-0.1", "fine", "0.1 mm"])
def test_a_scale_is_a_number_of_millimetres(hospital, cell):
    hospital.write("images.csv", [{"patient": "p00", "file": "img/p00_T.png", "view": "T", "mm": cell}])
    with pytest.raises(CohortError) as caught:
        hospital.load({"images": {"mm_per_pixel": "mm"}})
    assert [(fault.key, cell in fault.found) for fault in caught.value.faults] == [("images.mm_per_pixel", True)]
