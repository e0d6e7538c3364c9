"""``compare`` and ``export``: runs side by side, and in the trackers that a center may use."""

import builtins
import csv
import json
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.report.compare import Run, pairing, read_runs, render
from server.results import assemble
from tests.fake_run import fake_run


@pytest.fixture(scope="module")
def document():
    return assemble(fake_run()[0])


@pytest.fixture(scope="module")
def other():
    record, _ = fake_run()
    federation = record.protocol.federation.model_copy(update={"rounds": 20})
    protocol = record.protocol.model_copy(update={"federation": federation})
    return assemble(replace(record, protocol=protocol, run="another", enrolled=record.enrolled[:4]))


def saved(directory, document):
    directory.mkdir(parents=True)
    (directory / "results.json").write_text(json.dumps(document))
    return directory


def test_puts_runs_side_by_side(document, other, tmp_path):
    runs = [saved(tmp_path / "a" / "run", document), saved(tmp_path / "b" / "run", other)]
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "a/run" in page and "b/run" in page  # folders of one name are told apart
    assert "federation.rounds" in page and "federation.quorum" not in page  # what differs, and nothing else
    assert "not in this run" in page
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").read_text().splitlines()))
    row = next(r for r in rows if (r["run"], r["site"], r["measure"]) == ("a/run", "Iran_Hamadan_UCI", "auc"))
    auc = document["sites"]["Iran_Hamadan_UCI"]["metrics"]["auc"]
    assert (float(row["value"]), float(row["value_low"])) == (auc["value"], auc["low"])
    assert not {"<script", "http-equiv"} & set(page.split())


def test_a_section_that_one_run_does_without_is_said_to_be_none_there(document):
    protocol = document["protocol"]
    private = {**document, "protocol": {**protocol, "privacy": {**protocol["privacy"], "dp": {"epsilon": 8.0}}}}
    page = render([Run("open", document), Run("private", private)])
    rows = [" ".join(re.findall(r">([^<>]+)<", row)).split() for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    assert ["privacy.dp", "none", "as", "below"] in rows
    assert ["privacy.dp.epsilon", "–", "8.0"] in rows


def test_refuses_runs_of_different_outcomes(document, tmp_path):
    unlike = {**document, "study": {**document["study"], "outcome": "malignancy"}}
    runs = [saved(tmp_path / "a", document), saved(tmp_path / "b", unlike)]
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "malignancy" in result.stderr and "same outcome" in result.stderr
    assert not (tmp_path / "out").exists()


def test_names_every_run_that_cannot_be_read(document, tmp_path):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "results.json").write_text('{"schema_version": ')
    old = saved(tmp_path / "old", {**document, "schema_version": 0})
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "torn"), str(tmp_path / "none"), str(old)])
    assert result.exit_code == 2
    assert all(words in result.stderr for words in ("3 problems", "torn", "no such file", "consilium-center report"))


def test_one_run_is_none_to_compare(document, tmp_path):
    result = CliRunner().invoke(app, ["compare", str(saved(tmp_path / "a", document))])
    assert result.exit_code == 2 and "two or more" in result.stderr


def test_says_whether_patients_are_the_same(document):
    site = document["sites"]["Iran_Hamadan_UCI"]
    fewer = {**site, "sample_size": {**site["sample_size"], "events": site["sample_size"]["events"] - 1}}
    changed = {**document, "sites": {**document["sites"], "Iran_Hamadan_UCI": fewer}}
    (same,) = pairing([Run("a", document), Run("b", document)])
    (unlike,) = pairing([Run("a", document), Run("b", changed)])
    assert "as many test patients and events at Iran_Hamadan_UCI" in same and "other test patients" not in same
    assert "other test patients at Iran_Hamadan_UCI" in unlike


def test_a_hostile_title_stays_text(document):
    hostile = {**document, "study": {**document["study"], "title": "<script>alert(1)</script>"}}
    assert "<script" not in render([Run("<b>a</b>", hostile), Run("b", document)])


def test_reads_labels_of_equal_folders_apart(document, tmp_path):
    run = saved(tmp_path / "a", document)
    assert [one.label for one in read_runs([run, run])] == ["a", "a (2)"]


def export(document, tmp_path, tracker):
    run = saved(tmp_path / "run", document)
    result = CliRunner().invoke(app, ["export", str(run), "--to", tracker, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.filterwarnings("ignore")
def test_what_tensorboard_was_given_can_be_read_back(document, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    export(document, tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "out" / document["run"]["id"]))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("rounds/loss")]
    assert losses == [(row["round"], pytest.approx(row["loss"], rel=1e-6)) for row in document["rounds"]]
    (auc,) = events.Scalars("test/all_sites/auc")
    assert (auc.step, auc.value) == (
        document["run"]["best_round"],
        pytest.approx(document["pooled"]["metrics"]["auc"]["value"]),
    )
    assert "test/Johns_Hopkins/auc" not in events.Tags()["scalars"]


@pytest.mark.filterwarnings("ignore")
def test_what_mlflow_was_given_can_be_read_back(document, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    export(document, tmp_path, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "out" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name(document["study"]["name"])
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["federation.rounds"] == "12"
    assert run.data.tags["protocol_sha256"] == document["study"]["protocol_sha256"]
    history = client.get_metric_history(run.info.run_id, "rounds/loss")
    assert sorted((m.step, m.value) for m in history) == [(row["round"], row["loss"]) for row in document["rounds"]]
    auc = document["sites"]["Iran_Hamadan_UCI"]["metrics"]["auc"]
    assert run.data.metrics["test/Iran_Hamadan_UCI/auc"] == auc["value"]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["results.json"]


@pytest.mark.parametrize(("tracker", "package"), [("mlflow", "mlflow"), ("tensorboard", "torch.utils.tensorboard")])
def test_says_how_to_install_a_tracker_that_is_missing(document, tmp_path, monkeypatch, tracker, package):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    result = CliRunner().invoke(app, ["export", str(saved(tmp_path / "run", document)), "--to", tracker])
    assert result.exit_code == 2
    assert "pip install 'consilium[trackers]'" in result.stderr
