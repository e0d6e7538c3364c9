"""``consilium-site failures``: whom a model judged worst, by name, from scores that never left."""

import csv
import io
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.tasks.kept_scores import keep_scores


def failures(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["failures", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def kept(hospital, rows):
    """The hospital, its study, and a state folder with scores of three test patients in two rounds."""
    rows[3]["size_cm"] = ""
    hospital.write("patients.csv", rows)
    site, study = hospital.save()
    directory = hospital.folder / "state" / "run-1" / "alpha"
    for model, scores in ((1, [0.5, 0.5, 0.5]), (4, [0.9, 0.2, 0.1])):
        keep_scores(directory, model, patients=np.array([1, 2, 3]), common=np.array(scores))
    return site, study, directory, hospital.load()


def test_the_worst_come_first_with_identifier_and_values(kept):
    site, study, directory, cohort = kept
    result = failures(site, "--study", study, "--state", directory.parent.parent, "--count", 2)
    assert result.exit_code == 0, result.output
    path = directory / "failures-0004.csv"
    table = list(csv.DictReader(io.StringIO(path.read_text())))
    labels = cohort.tensors.label.numpy()[[1, 2, 3]]
    errors = np.abs(np.array([0.9, 0.2, 0.1]) - labels)
    order = np.argsort(-errors, kind="stable")[:2]
    assert [row["patient"] for row in table] == [cohort.patients[1 + place] for place in order]
    assert [float(row["error"]) for row in table] == pytest.approx(errors[order], abs=1e-4)
    assert all(row["age"] and row["sex"] in {"female", "male"} for row in table)
    assert path.stat().st_mode & 0o077 == 0
    assert str(path) in result.output


def test_an_earlier_model_can_be_asked_for_and_one_that_is_not_there_is_named(kept):
    site, study, directory, _ = kept
    state = directory.parent.parent
    assert failures(site, "--study", study, "--state", state, "--model", 1).exit_code == 0
    assert (directory / "failures-0001.csv").exists()
    refused = failures(site, "--study", study, "--state", state, "--model", 7)
    assert refused.exit_code == 2
    assert "[1, 4]" in refused.output
    unknown = failures(site, "--study", study, "--state", state, "--run", "other")
    assert unknown.exit_code == 2
    assert "run-1" in unknown.output


def test_an_export_that_has_shrunk_is_named(kept):
    site, study, directory, _ = kept
    keep_scores(directory, 5, patients=np.array([400]), common=np.array([0.5]))
    result = failures(site, "--study", study, "--state", directory.parent.parent)
    assert result.exit_code == 2
    assert "export has changed" in result.output
