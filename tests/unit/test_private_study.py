"""A whole study with differential privacy: what leaves, who refuses, and that the study ends all the same."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from client.site_config import Policy
from client.worker import Worker
from server.journal import Journal
from server.records import RunRecord
from server.results.document import assemble
from server.study import FederatedStudy
from shared_model.disclosure import Why
from shared_model.errors import FailureCode, StudyError
from shared_model.protocol import StudyProtocol
from tests.sites import LAX, Loopback, worker
from tests.unit.test_budget import study

SITES = ("east", "north", "west")
SCHEMA = json.loads((Path(__file__).parents[2] / "server" / "results" / "schema.json").read_text())


def sites(folder: Path, **policies: dict[str, Any]) -> dict[str, Worker]:
    return {
        name: worker(name, folder, policy=LAX.model_copy(update={"delta": 1e-4} | policies.get(name, {}))) for name in SITES
    }


def conduct(out: Path, protocol: StudyProtocol, workers: dict[str, Worker], *, run: str = "r") -> RunRecord:
    Journal.create(out, protocol, run=run, engine="test", seed=7, enrolled=SITES, versions={}).close()
    with Journal(out) as journal:
        FederatedStudy(Loopback(workers), journal).run()  # type: ignore[arg-type]
        return journal.record()


def test_every_site_states_what_it_spent_and_nothing_of_training_patients_leaves(tmp_path: Path) -> None:
    record = conduct(tmp_path / "run", study(rounds=2), sites(tmp_path / "state"))
    document = assemble(record)
    jsonschema.validate(document, SCHEMA)
    for name, site in document["sites"].items():
        spent = site["privacy"]
        assert 7.5 < spent["epsilon"] <= 8.0, "two rounds were planned, and both were done"
        assert spent["epsilon"] == spent["epsilon_total"] == pytest.approx(spent["planned"])
        assert (spent["delta"], spent["limit"], spent["accountant"]) == (1e-4, 8.0, "rdp")
        assert (spent["unit"], spent["sampling"], spent["refused_rounds"]) == ("training patient", "Poisson", [])
        assert site["events"]["train"] is None
        assert site["cohort"]["images_found"] is None
        assert site["cohort"]["variables"]["a"]["patients"] == site["n"]["tune"], "statistics are of tuning patients"
        assert {item["why"] for item in site["suppressed"]} == {Why.PRIVATE.value}
        assert all(row.sites[name].loss is None for row in record.rounds)
    assert document["pooled"]["metrics"]["auc"]["value"] is not None


def test_a_site_at_its_limit_refuses_and_the_study_ends_without_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    conduct(tmp_path / "first", study(rounds=2, epsilon=3.0), sites(state))
    frugal = sites(state, north={"epsilon_limit": 2.0})
    record = conduct(tmp_path / "second", study(rounds=2, epsilon=3.0), frugal, run="s")
    document = assemble(record)
    north, east = document["sites"]["north"], document["sites"]["east"]
    assert north["participated"] == []
    assert north["privacy"]["refused_rounds"] == [1, 2]
    assert {failure["code"] for failure in north["failures"]} == {FailureCode.BUDGET_EXCEEDED.value}
    assert "privacy budget" in north["failures"][0]["reason"]
    assert north["metrics"]["auc"] is not None, "other patients still judge the model"
    assert 3.0 < east["privacy"]["epsilon_total"] <= 8.0
    assert east["privacy"]["epsilon"] <= 3.0
    assert record.stopped == "all rounds done"


def test_a_study_ends_with_what_it_has_when_too_many_budgets_are_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = sites(tmp_path / "state")
    monkeypatch.setattr("server.study.FederatedStudy._best_known", _lower_the_limits(workers, after=2))
    record = conduct(tmp_path / "run", study(rounds=4), workers)
    assert [row.round for row in record.rounds] == [1, 2]
    assert record.stopped == "the privacy budgets of too many sites are spent"
    assert record.finished
    assert set(record.evaluations) == set(SITES)


def _lower_the_limits(workers: dict[str, Worker], *, after: int) -> Any:
    from server.study import FederatedStudy as Study

    original = Study._best_known

    def best_known(self: Study) -> int:
        if self.round == after:
            for site in workers.values():
                site.policy = site.policy.model_copy(update={"epsilon_limit": 0.5})
        return original(self)

    return best_known


def test_a_study_that_no_budget_allows_does_not_begin(tmp_path: Path) -> None:
    limits = {name: {"epsilon_limit": 1e-4} for name in SITES}
    with pytest.raises(StudyError, match="privacy budget"):
        conduct(tmp_path / "run", study(rounds=2), sites(tmp_path / "state", **limits))


def test_a_site_that_wants_differential_privacy_does_not_train_without(tmp_path: Path) -> None:
    open_study = study().model_copy(update={"privacy": study().privacy.model_copy(update={"dp": None})})
    record = conduct(tmp_path / "run", open_study, sites(tmp_path / "state", north={"dp_required": True}))
    refusals = [failure.code for failure in record.failures if failure.site == "north"]
    assert set(refusals) == {FailureCode.TASK_NOT_ALLOWED}
    assert assemble(record)["sites"]["north"]["privacy"] is None


def test_a_delta_that_would_publish_a_patient_is_refused(tmp_path: Path) -> None:
    record_or_error: Any
    with pytest.raises(StudyError) as record_or_error:
        conduct(tmp_path / "run", study(), sites(tmp_path / "state", **{name: {"delta": 0.05} for name in SITES}))
    assert "sites counted in round 1" in str(record_or_error.value)
    assert Policy().delta == 1e-5
