"""``consilium-site check`` as a whole: checks with remedies, exit codes, JSON and the page."""

import json
import os
import re
import time
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli import app
from tests.unit.cohort.conftest import patient_rows

NO_IMAGES = {"images": None, "network": {"kind": "clinical_only", "width": 16, "heads": 2}}


def check(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["check", *map(str, arguments)], catch_exceptions=False)


def checks_of(result: Any) -> dict[str, dict[str, Any]]:
    return {check["id"]: check for check in json.loads(result.stdout)["checks"]}


def test_every_check_has_an_answer_and_every_problem_a_remedy(hospital):
    site, study = hospital.save()
    result = check(site, "--study", study, "--json")
    assert result.exit_code == 0
    found = checks_of(result)
    assert set(found) == {
        "table", "patients", "labels", "prevalence", "parts", "mapping", "units", "ranges", "missing", "images", "files",
        "rows", "leakage", "redundancy", "duplicates", "text", "borders", "memory", "disk", "gpu", "clock", "epoch",
    }  # fmt: skip
    assert all(check["found"] for check in found.values())
    assert all(problem["what"] and problem["remedy"] for check in found.values() for problem in check["problems"])
    skipped = {name for name, check in found.items() if check["status"] == "skip"}
    assert skipped == {"prevalence", "leakage", "redundancy", "borders"}  # too few patients, and no expectation
    assert re.match(r"about [0-9.]+ s for 1 steps on (cpu|cuda)", found["epoch"]["found"])


def test_fast_measures_no_training(hospital):
    site, study = hospital.save()
    assert checks_of(check(site, "--study", study, "--json", "--fast"))["epoch"]["status"] == "skip"


def test_a_variable_that_encodes_the_outcome_fails_the_site(hospital):
    rows = patient_rows(60)
    for row in rows:
        row["sex"] = "M" if row["llnm"] else "F"
        row["copy"] = f"N{row['llnm']}"
    hospital.write("patients.csv", rows)
    site, study = hospital.save({"images": None}, NO_IMAGES)
    result = check(site, "--study", study, "--deep", "--fast", "--json")
    assert result.exit_code == 2
    found = checks_of(result)
    assert found["leakage"]["status"] == "fail"
    assert "'sex' alone" in found["leakage"]["problems"][0]["what"]
    assert [problem["what"].split("'")[1] for problem in found["columns"]["problems"]] == ["copy"]
    assert "'size_cm' alone" not in result.stdout
    text = check(site, "--study", study, "--fast")
    assert text.exit_code == 2
    assert "Mend what failed" in text.stdout


def test_a_size_in_centimetres_called_millimetres(hospital, rows):
    for row in rows:
        row["size_cm"] = f"{0.5 + row['age'] / 100:.2f}"
    hospital.write("patients.csv", rows)
    study = {**NO_IMAGES, "variables": {"size": {"range": [0.1, 150]}}}
    site, study_path = hospital.save({"images": None, "cohort": {"variables": {"size": {"unit": "mm"}}}}, study)
    units = checks_of(check(site, "--study", study_path, "--fast", "--json"))["units"]
    assert units["status"] == "warn"
    assert "looks like cm" in units["problems"][0]["what"]
    assert 'unit = "cm"' in units["problems"][0]["remedy"]


@pytest.mark.parametrize(("expected", "status"), [([0.2, 0.5], "pass"), ([0.6, 0.8], "warn"), ([0.0, 0.1], "warn")])
def test_the_prevalence_that_the_study_expects(hospital, expected, status):
    site, study = hospital.save({"images": None}, {**NO_IMAGES, "study": {"prevalence": expected}})
    found = checks_of(check(site, "--study", study, "--fast", "--json"))["prevalence"]
    assert found["status"] == status
    if expected == [0.6, 0.8]:
        assert "swapped" in found["problems"][0]["remedy"]


def test_one_outcome_or_too_few_patients_fail(hospital, rows):
    hospital.write("patients.csv", [row | {"llnm": 1} for row in rows])
    site, study = hospital.save({"images": None, "policy": {"minimum_patients": 50}}, NO_IMAGES)
    result = check(site, "--study", study, "--fast", "--json")
    found = checks_of(result)
    assert result.exit_code == 2
    assert (found["labels"]["status"], found["patients"]["status"]) == ("fail", "fail")


def test_a_clock_behind_the_files_fails(hospital):
    site, _ = hospital.save()
    later = time.time() + 86400
    os.utime(hospital.folder / "patients.csv", (later, later))
    result = check(site, "--json")
    assert result.exit_code == 2
    assert "set the clock" in checks_of(result)["clock"]["problems"][0]["remedy"]


def test_the_same_picture_under_two_names(hospital):
    for name in ("p00_T", "p01_T", "p02_T", "p03_T", "p04_T"):
        hospital.picture(f"img/{name}.png", np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8))
    site, study = hospital.save()
    found = checks_of(check(site, "--study", study, "--fast", "--json"))["duplicates"]
    assert found["status"] in {"warn", "fail"}
    assert "identical pictures of different patients" in found["problems"][0]["what"]


def test_the_page_is_one_file_without_identifiers(hospital):
    site, study = hospital.save()
    page = hospital.folder / "check.html"
    assert check(site, "--study", study, "--fast", "--html", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 4  # two contact sheets for each view
    assert re.findall(r"<figcaption>(\w+): before and after standardisation", text) == ["transverse", "longitudinal"]
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|https?://", text)
    assert "p00" not in text
    assert "size_cm" in text


def test_the_page_tells_what_kept_the_data_from_being_read(hospital):
    site, study = hospital.save({"cohort": {"variables": {"age": {"column": "agee"}}}})
    page = hospital.folder / "check.html"
    result = check(site, "--study", study, "--html", page)
    assert result.exit_code == 2
    text = page.read_text(encoding="utf-8")
    assert "agee" in text
    assert "did you mean" in text


def test_names_are_escaped_on_the_page(hospital, rows):
    for row in rows:
        row["<b>&x"] = row.pop("age")
    hospital.write("patients.csv", rows)
    site, study = hospital.save({"cohort": {"variables": {"age": {"column": "<b>&x"}}}})
    page = hospital.folder / "check.html"
    check(site, "--study", study, "--fast", "--html", page)
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;x" in text
    assert "<b>&x" not in text


def test_a_page_into_nowhere_is_told_first(hospital):
    site, study = hospital.save()
    result = check(site, "--study", study, "--html", hospital.folder / "nowhere" / "check.html")
    assert result.exit_code == 2
    assert "create it first" in result.stderr
