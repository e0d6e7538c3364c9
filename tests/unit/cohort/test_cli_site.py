"""``consilium-site check``, and a tour of bad input: one clear message with the remedy, exit code 2, nothing written."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from client.cli import app


def check(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["check", *map(str, arguments)], catch_exceptions=False)


def files_of(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_good_site_gets_a_report_and_exit_code_0(hospital, rows):
    rows[0]["sex"] = "u"
    hospital.write("patients.csv", rows)
    site, study = hospital.save()
    result = check(site, "--study", study)
    assert result.exit_code == 0
    for words in ("included", "size_cm", "cm x 10 = mm", "median 15.5 mm", '"u" (1)', "transverse", "This site can take part"):
        assert words in result.stdout
    assert "p00" not in result.stdout


def test_without_a_study_paths_columns_and_labels_are_checked(hospital):
    site, _ = hospital.save()
    result = check(site)
    assert result.exit_code == 0
    assert "in order" in result.stdout
    assert not (hospital.folder / "cache").exists()


def test_json_is_one_document(hospital):
    site, study = hospital.save()
    result = check(site, "--study", study, "--json")
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert document["site"] == "alpha"
    assert document["parts"]["train"] == {"patients": 7, "positives": 2}
    assert document["variables"]["size"]["median"] == pytest.approx(15.5)


def test_json_holds_the_faults_too(hospital):
    site, study = hospital.save({"cohort": {"variables": {"age": {"column": "alter"}}}})
    result = check(site, "--study", study, "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert [problem["key"] for problem in document["problems"]] == ["cohort.variables.age.column"]


def write_html(hospital) -> None:
    for file in sorted((hospital.folder / "img").iterdir())[:5]:
        file.write_bytes(b"<!DOCTYPE html><html><body>Session expired</body></html>")


TOUR = {
    "missing file": ({"cohort": {"table": "patient.csv"}}, None, ["no such file", 'did you mean "patients.csv"?']),
    "unknown column": (
        {"cohort": {"variables": {"age": {"column": "agee"}}}},
        None,
        ['no column "agee"', 'did you mean "age"?'],
    ),
    "unknown key": ({"cohort": {"tabel": "patients.csv"}}, None, ["cohort.tabel", "unknown key", 'did you mean "table"']),
    "unit typo": (
        {"cohort": {"variables": {"size": {"unit": "cmm"}}}},
        None,
        ['"cmm"', "mm, cm, m, um, in", 'did you mean "mm" or "cm"?'],
    ),
    "label with three codes": (
        {},
        lambda hospital, rows: (rows[0].update(llnm="2"), hospital.write("patients.csv", rows)),
        ["column 'llnm' also holds \"2\" (1)", "label.ignore = [2]"],
    ),
    "duplicate patient in two splits": (
        {"split": {"column": "part", "codes": {"a": "train", "b": "test"}}},
        lambda hospital, rows: hospital.write("patients.csv", [*rows, rows[0] | {"part": "b"}]),
        ["p00 (train and test)", "give all rows of a patient the same part"],
    ),
    "images that are HTML": (
        {},
        lambda hospital, rows: write_html(hospital),
        ["5 of 24 images", "web page", "export these files again"],
    ),
    "zero patients": ({"cohort": {"where": {"sex": "W"}}}, None, ["no row passes", '"F" (6), "M" (6)', "use values"]),
    "table that is HTML": (
        {},
        lambda hospital, rows: (hospital.folder / "patients.csv").write_text("<html>log in</html>"),
        ["web page", "export it again"],
    ),
    "unset variable": (
        {"cohort": {"table": "${CONSILIUM_NOWHERE}/p.csv"}},
        None,
        ["CONSILIUM_NOWHERE", "export CONSILIUM_NOWHERE="],
    ),
}


@pytest.mark.parametrize(("changes", "edit", "words"), TOUR.values(), ids=TOUR.keys())
def test_bad_input_tour(hospital, rows, monkeypatch, changes, edit, words):
    cache = hospital.folder.parent / f"{hospital.folder.name}-cache"
    monkeypatch.setenv("CONSILIUM_CACHE", str(cache))
    monkeypatch.delenv("CONSILIUM_NOWHERE", raising=False)
    if edit:
        edit(hospital, rows)
    site, study = hospital.save(changes)
    before = files_of(hospital.folder)
    result = check(site, "--study", study)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("1 problem found:")
    for word in [*words, "found:", "expected:", "remedy:"]:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert files_of(hospital.folder) == before
    assert not cache.exists()


def test_faults_of_both_files_are_told_together(hospital):
    site, study = hospital.save({"polcy": {}})
    study.write_text(tomli_w.dumps({"study": {"name": "x"}}), encoding="utf-8")
    result = check(site, "--study", study)
    assert result.exit_code == 2
    assert str(site) in result.stderr
    assert str(study) in result.stderr


@pytest.mark.parametrize("arguments", [["nowhere.toml"], []])
def test_a_missing_argument_or_file_is_no_traceback(arguments):
    result = check(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_the_command_starts_without_heavy_libraries():
    code = "import sys, client.cli; print([m for m in ('torch', 'pandas', 'flwr', 'numpy', 'PIL') if m in sys.modules])"
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert result.stdout.strip() == "[]"
    assert time.monotonic() - started < 5.0
