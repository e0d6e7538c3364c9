"""Comparators: what clinicians said, from the protocol's definition to one number a patient."""

import csv
from pathlib import Path

import numpy as np
import pytest

from client.init import initialise
from client.preflight import preflight
from client.site_config import read_site
from client.worker import open_site
from shared_model.errors import CohortError, ConfigurationError
from shared_model.protocol import StudyProtocol, read_protocol
from tests.tables import write_sites, write_study

READING = """
[comparators.reader]
categories = ["benign", "unsure", "malignant"]
positive = ["unsure", "malignant"]

[comparators.length]
kind = "numeric"
unit = "mm"
range = [0.1, 200]
at_least = 10.0

[comparators.sex]
variable = "sex"
positive = ["male"]
"""
MAPPED = """
[cohort.comparators]
reader = { column = "reading", codes = { 1 = "benign", 2 = "unsure", 3 = "malignant" } }
length = { column = "size_cm", unit = "cm" }
"""


def study(folder: Path, text: str = READING) -> StudyProtocol:
    path = write_study(folder)
    path.write_text(path.read_text() + text)
    return read_protocol(path)


def site(folder: Path, text: str = MAPPED) -> Path:
    path = write_sites(folder, names=("east",))[0]
    rows = list(csv.DictReader((folder / "east.csv").read_text().splitlines()))
    with (folder / "east.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "reading"])
        writer.writeheader()
        writer.writerows({**row, "reading": ("", "1", "2", "3")[number % 4]} for number, row in enumerate(rows))
    path.write_text(path.read_text() + text)
    return path


def test_readings_become_places_and_numbers_in_the_protocols_unit(tmp_path: Path) -> None:
    protocol = study(tmp_path)
    patients = open_site(site(tmp_path), state=tmp_path).cohort(protocol)
    ratings = patients.ratings
    assert list(ratings) == ["reader", "length", "sex"]
    assert np.isnan(ratings["reader"]).sum() == 20
    assert set(ratings["reader"][~np.isnan(ratings["reader"])]) == {0.0, 1.0, 2.0}
    assert np.allclose(np.log(ratings["length"]), patients.tensors.numeric[:, 1].numpy(), atol=1e-5)
    assert np.array_equal(ratings["sex"], patients.tensors.categorical[:, 0].numpy())
    reader, length = protocol.comparators["reader"], protocol.comparators["length"]
    assert [reader.calls(place, protocol.variables) for place in (0.0, 1.0, 2.0)] == [False, True, True]
    assert [length.calls(mm, protocol.variables) for mm in (9.9, 10.0)] == [False, True]
    assert protocol.comparators["sex"].calls(1.0, protocol.variables)


def test_a_comparator_is_no_input(tmp_path: Path) -> None:
    with_reader = open_site(site(tmp_path), state=tmp_path).cohort(study(tmp_path)).tensors
    plain = open_site(write_sites(tmp_path / "b", names=("east",))[0], state=tmp_path).cohort(
        read_protocol(write_study(tmp_path / "b"))
    )
    assert with_reader.numeric.shape == plain.tensors.numeric.shape
    assert with_reader.categorical.shape == plain.tensors.categorical.shape


def test_what_is_wrong_with_readings_is_told(tmp_path: Path) -> None:
    """Codes that nobody mapped, numbers that cannot be, and a comparator without a column: as of variables."""
    protocol = study(tmp_path)
    text = MAPPED.replace(', 3 = "malignant"', "")
    found = {
        check.id: check for check in preflight(read_site(site(tmp_path, text)), protocol, where=tmp_path / "east.toml").checks
    }
    assert found["mapping"].found.endswith("variables and comparators of the study are mapped")
    told = {problem.what: problem.remedy for problem in found["mapping"].problems}
    codes = next(what for what in told if what.startswith("reader: codes that are not mapped became missing"))
    assert '"3" = ...' in told[codes]
    unmapped = preflight(read_site(site(tmp_path / "b", "")), protocol, where=tmp_path / "b/east.toml").checks
    remedies = [problem.remedy for check in unmapped if check.id == "mapping" for problem in check.problems]
    assert "map it in [cohort.comparators.reader] if you have it" in remedies


def test_a_draft_names_the_columns_of_comparators(tmp_path: Path) -> None:
    folder = tmp_path / "draft"
    site(folder)
    study(tmp_path, READING.replace("comparators.reader", "comparators.reading"))
    drafted = initialise([folder / "east.csv"], out=folder / "draft.toml", study=tmp_path / "study.toml")
    assert drafted.absent == ("length",)
    found = read_site(folder / "draft.toml").cohort.comparators
    assert found["reading"].codes == {"1": "benign", "2": "unsure", "3": "malignant"}
    assert "# length: no column found" in (folder / "draft.toml").read_text()


def test_a_site_without_the_readings_takes_part(tmp_path: Path) -> None:
    patients = open_site(site(tmp_path, ""), state=tmp_path).cohort(study(tmp_path))
    assert np.isnan(patients.ratings["reader"]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[comparators.r]\nvariable = "nose"\npositive = ["a"]', "no variable 'nose'"),
        ('[comparators.r]\nvariable = "sex"', "give positive, or at_least"),
        ('[comparators.r]\nvariable = "sex"\npositive = ["x"]', "positive names ['x']"),
        ('[comparators.r]\nvariable = "sex"\npositive = ["female", "male"]', "every category is positive"),
        ('[comparators.r]\nvariable = "age"\npositive = ["x"]', "a number is positive from some value on"),
        ('[comparators.r]\nvariable = "sex"\nat_least = 1.0', "categories have no least number"),
        ('[comparators.r]\nvariable = "age"\nunit = "years"\nat_least = 1.0', "remove them here"),
        ('[comparators.r]\npositive = ["x"]', "two or more distinct categories"),
        ('[comparators.sex]\ncategories = ["a", "b"]\npositive = ["b"]', 'write variable = "sex"'),
    ],
)
def test_what_is_no_comparator_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        study(tmp_path, f"\n{text}\n")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[cohort.comparators]\nradar = { column = "reading" }', "no such comparator"),
        ('[cohort.comparators]\nsex = { column = "sex" }', "that is no variable"),
        ('[cohort.comparators]\nreader = { column = "reding" }', 'no column "reding"'),
        ('[cohort.comparators]\nreader = { column = "reading", codes = { 1 = "good" } }', '"good"'),
        ('[cohort.comparators]\nlength = { column = "size_cm" }', "say in which unit"),
        ('[cohort.comparators]\nlength = { from = "age", to = "size_cm", unit = "cm" }', "name the column"),
        ('[cohort.comparators]\nlength = { column = "size_cm", unit = "m" }', 'set unit = "mm"'),
    ],
)
def test_a_mapping_that_does_not_fit_is_a_fault_of_the_site_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises((ConfigurationError, CohortError)) as refused:
        open_site(site(tmp_path, f"\n{text}\n"), state=tmp_path).cohort(study(tmp_path))
    assert words in str(refused.value)


def test_risk_strata_are_edges_of_bins(tmp_path: Path) -> None:
    assert study(tmp_path, "[evaluation]\nrisk_strata = [0.1, 0.5]\n").evaluation.risk_strata == (0.1, 0.5)
    for wrong, words in (("[0.5, 0.1]", "low < high"), ("[0.101, 0.5]", "use [0.1, 0.5]")):
        with pytest.raises(ConfigurationError, match="risk_strata") as refused:
            study(tmp_path, f"[evaluation]\nrisk_strata = {wrong}\n")
        assert words in str(refused.value)
