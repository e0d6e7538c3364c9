"""One command, several designs: sites left out, folds, an external site, and every arm on the same patients."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

import server.results
from server import designs
from server.cli import app
from server.journal import Journal
from server.launch import report
from tests.tables import write_sites, write_study

SCHEMA = json.loads((Path(server.results.__file__).parent / "schema.json").read_text())
SITES = ("east", "north", "west")
COMPARED = """
[evaluation]
bootstrap = 200
risk_strata = [0.2, 0.5]

[comparators.male]
variable = "sex"
positive = ["male"]
"""


def command(folder: Path, *options: object) -> tuple[int, str]:
    arguments = ["simulate", folder / "study.toml", *(folder / f"{site}.toml" for site in SITES)]
    arguments += ["--out", folder / "run", "--threads", 1, *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("designs")
    study = write_study(folder, rounds=1)
    study.write_text(study.read_text() + COMPARED)
    write_sites(folder, names=(*SITES, "far"), patients=90)
    options = ("--with-baselines", "--folds", 2, "--leave-one-site-out", "--external", folder / "far.toml")
    code, output = command(folder, *options)
    assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def document(finished: Path) -> dict:  # type: ignore[type-arg]
    found = json.loads((finished / "run" / "results.json").read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    return found


def test_each_site_is_left_out_once_and_tested_whole_by_the_others(document: dict, finished: Path) -> None:  # type: ignore[type-arg]
    left_out = document["design"]["left_out"]["sites"]
    assert set(left_out) == set(SITES)
    for site, row in left_out.items():
        assert row["trained_on"] == [other for other in SITES if other != site]
        assert row["result"]["patients"] == 90
        # There is none where the others may not tell enough of their tuning patients to choose one.
        assert row["chosen_threshold"] is None or row["chosen_threshold"]["rule"] == "sensitivity 0.90"
    with Journal(finished / "run" / "leave-one-out" / "east") as journal:
        record = journal.record()
    parts = record.descriptions["east"].parts
    assert (parts["train"].patients, parts["tune"].patients, parts["test"].patients) == (0, 0, 90)
    with Journal(finished / "run") as journal:
        assert record.protocol.base.sha256 == journal.protocol.base.sha256


def test_the_model_of_the_others_knows_nothing_of_the_site(finished: Path) -> None:
    """Its normalisation is of the others' training patients."""
    with Journal(finished / "run") as journal:
        whole = journal.record()
    with Journal(finished / "run" / "leave-one-out" / "east") as journal:
        without = journal.record()
    ages = [whole.descriptions[site].moments["age"] for site in ("north", "west")]
    assert without.normalization.mean[0] == pytest.approx((ages[0] + ages[1]).mean)
    assert without.normalization.mean[0] != pytest.approx(whole.normalization.mean[0])


def test_folds_test_every_patient_once_with_every_arm(document: dict) -> None:  # type: ignore[type-arg]
    folds = document["design"]["folds"]
    assert (folds["of"], folds["finished"]) == (2, 2)
    assert {site: result["patients"] for site, result in folds["sites"].items()} == dict.fromkeys(SITES, 90)
    assert folds["pooled"]["patients"] == 270
    assert set(folds["arms"]) == {"federated", "fine_tuned", "local", "central", "logistic"}
    for arm in folds["arms"].values():
        assert arm["pooled"]["patients"] == 270
    assert set(folds["comparisons"]["local"]["sites"]) == set(SITES)
    assert folds["comparators"]["male"]["pooled"]["patients"] == 270


def test_an_external_site_is_evaluated_whole_and_is_in_nothing_pooled(document: dict) -> None:  # type: ignore[type-arg]
    assert document["design"]["external"] == ["far"]
    assert document["sites"]["far"]["n"] == {"train": 0, "tune": 0, "test": 90}
    assert document["sites"]["far"]["participated"] == []
    assert document["pooled"]["patients"] == sum(document["sites"][site]["n"]["test"] for site in SITES)
    assert "far" not in document["arms"]["federated"]["sites"]
    assert "far" not in document["design"]["left_out"]["sites"]
    assert set(document["strata"]["sites"]) == {*SITES, "far"}
    assert sum(row["patients"] for row in document["strata"]["pooled"]) == document["pooled"]["patients"]


def test_every_arm_is_compared_with_the_federated_model_at_each_site(document: dict) -> None:  # type: ignore[type-arg]
    assert set(document["comparisons"]) == {"fine_tuned", "local", "central", "logistic"}
    for name, comparison in document["comparisons"].items():
        for site, pair in comparison["sites"].items():
            arms = document["arms"]
            difference = arms["federated"]["sites"][site]["auc"]["value"] - arms[name]["sites"][site]["auc"]["value"]
            assert pair["auc"]["value"] == pytest.approx(difference, abs=1e-12)
            brier = arms["federated"]["sites"][site]["brier"] - arms[name]["sites"][site]["brier"]
            assert pair["brier"]["value"] == pytest.approx(brier, abs=1e-12)
            assert site in pair["words"]
        pooled = comparison["pooled"]
        assert pooled["patients"] == sum(pair["patients"] for pair in comparison["sites"].values())
        within = arms["federated"]["pooled"]["auc"]["value"] - arms[name]["pooled"]["auc"]["value"]
        assert pooled["auc"]["value"] == pytest.approx(within, abs=1e-9)


def test_a_comparator_stands_beside_the_model(document: dict) -> None:  # type: ignore[type-arg]
    reading = document["comparators"]["male"]
    assert reading["an_input"]
    assert reading["positive"] == "male"
    pooled = reading["pooled"]
    assert pooled["patients"] == document["pooled"]["patients"]
    row = pooled["thresholds"][0]
    difference = row["model"]["sensitivity"]["value"] - pooled["own"]["sensitivity"]["value"]
    assert row["sensitivity"]["value"] == pytest.approx(difference)
    assert row["specificity"]["value"] == pytest.approx(
        row["model"]["specificity"]["value"] - pooled["own"]["specificity"]["value"]
    )


def test_the_local_arm_of_the_table_is_the_local_arm_of_its_site(document: dict) -> None:  # type: ignore[type-arg]
    for site in SITES:
        own = document["sites"][site]["local_only"]["metrics"]["auc"]
        assert document["arms"]["local"]["sites"][site]["auc"]["value"] == pytest.approx(own["value"])


def test_a_finished_design_is_left_as_it_is_and_reported_again(finished: Path) -> None:
    run = finished / "run"
    models = sorted(run.glob("**/best.safetensors"))
    assert len(models) > 10
    before = {path: path.stat().st_mtime_ns for path in models}
    options = ("--with-baselines", "--folds", 2, "--leave-one-site-out", "--external", finished / "far.toml")
    code, output = command(finished, *options)
    assert code == 0, output
    assert {path: path.stat().st_mtime_ns for path in models} == before


def test_other_folds_in_the_same_run_are_refused(finished: Path) -> None:
    code, output = command(finished, "--folds", 4, "--external", finished / "far.toml")
    assert code == 2
    assert "another design" in " ".join(output.split())


def test_a_study_without_a_site_that_cannot_go_on_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    study = write_study(tmp_path, rounds=1)
    sites = write_sites(tmp_path, names=("east", "north"), patients=40)
    sites.append(tmp_path / "west.toml")
    write_sites(tmp_path, names=("west",), patients=40)
    rows = (tmp_path / "west.csv").read_text().splitlines()
    (tmp_path / "west.csv").write_text("\n".join([rows[0], *(row.rsplit(",", 1)[0] + ",no" for row in rows[1:])]))
    rows = (tmp_path / "north.csv").read_text().splitlines()
    (tmp_path / "north.csv").write_text("\n".join([rows[0], *(row.rsplit(",", 1)[0] + ",no" for row in rows[1:])]))
    code, output = command(tmp_path, "--leave-one-site-out")
    assert code == 1
    assert "without east" in output
    assert study.exists()
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    left_out = found["design"]["left_out"]["sites"]
    assert "tuning patients" in left_out["east"]["why_not"]  # nobody else has a positive one
    assert left_out["north"]["why_not"] is not None or left_out["north"]["result"]["events"] == 0


def test_a_report_in_the_middle_says_what_is_not_finished(finished: Path, tmp_path: Path) -> None:
    """As after a kill: the study without a site is there, but not finished."""
    run = finished / "run"
    with Journal(run) as journal:
        record = journal.record()
    sub = designs.without_each_site(record, tmp_path)[0]
    designs_record = designs.carry_out(sub, record, lambda _: None)
    assert designs_record.finished is None
    design = designs.read_design(tmp_path)
    assert design.left_out["east"].finished is None
    row = server.results.assemble(record, (), design)["design"]["left_out"]["sites"]["east"]
    assert row["why_not"] == "not finished"


def test_leaving_out_needs_two_sites(tmp_path: Path) -> None:
    write_study(tmp_path, rounds=1)
    site = write_sites(tmp_path, names=("east",))[0]
    arguments = ["simulate", tmp_path / "study.toml", site, "--out", tmp_path / "run", "--leave-one-site-out", "--threads", 1]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    assert "two or more" in result.output
    report(tmp_path / "run")
    assert np.isfinite((tmp_path / "run" / "results.json").stat().st_size)


@pytest.mark.parametrize("options", [("--leave-one-site-out",), ("--external", "far.toml")])
def test_a_site_that_does_not_train_is_not_judged_by_layers_it_never_had(options: tuple[str, ...], tmp_path: Path) -> None:
    write_study(tmp_path, rounds=1, federation='personal = ["head"]')
    write_sites(tmp_path, names=(*SITES, "far"), patients=40)
    code, output = command(tmp_path, *(tmp_path / name if name.endswith("toml") else name for name in options))
    assert code == 2
    assert "it has no layers of its own" in " ".join(output.split())
    assert not (tmp_path / "run").exists()
