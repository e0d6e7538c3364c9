"""Models compared where the patients are: from the scores that a site keeps to what the center admits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from client.cohort import StudyPatients
from client.site_config import Policy
from client.tasks.compare import compare
from client.tasks.kept_scores import keep_scores
from client.worker import Worker
from server.comparing import admit_comparison
from server.journal import Journal
from server.results.readings import comparators
from server.study import conduct
from shared_model import messages
from shared_model.disclosure import Why
from shared_model.errors import FailureCode, RefusedError
from shared_model.messages import CompareReply, CompareRequest, Failure, Message, ScoredModel, Task
from shared_model.protocol import StudyProtocol
from tests import sites
from tests.unit.test_study import SITES, protocol, start

READER = {"reader": {"categories": ["no", "yes"], "positive": ["yes"]}}
PATIENTS = 60


def with_reader(**sections: dict[str, object]) -> StudyProtocol:
    document = json.loads(protocol(**sections).canonical_json) | {"comparators": READER}
    return StudyProtocol.model_validate_json(json.dumps(document))


def cohort(*, patients: int = PATIENTS, unread: int = 0, seed: int = 3) -> StudyPatients:
    data = sites.tensors(patients=patients, seed=seed)
    ratings = (data.numeric[:, 0] + data.numeric[:, 1] > 0).double().numpy()
    ratings[:unread] = np.nan
    return replace(sites.cut(data, shares=(0.0, 0.0, 1.0)), ratings={"reader": ratings})


def worker(folder: Path, *, policy: Policy | None = None, **made: int) -> Worker:
    found = cohort(**made)
    return Worker("a", policy=policy or Policy(), load=lambda _: found, state=folder, approvals=sites.AnyProtocol(folder))


def task(settings: StudyProtocol, attempt: str = "token") -> Task:
    return Task(run="main", site="a", round=1, attempt=attempt, protocol_json=settings.canonical_json, seed=0)


def keep(folder: Path, run: str, patients: np.ndarray, scores: np.ndarray, model: int = 1) -> ScoredModel:
    keep_scores(folder / run / "a", model, patients=patients, common=scores)
    return ScoredModel(run, model)


def ask(site: Worker, request: CompareRequest) -> CompareReply | Failure:
    return messages.decode(site.handle(messages.encode(Message(request)))).record  # type: ignore[return-value]


def draw(labels: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(rng.normal(size=labels.size) + 1.5 * labels - 0.7)))


def test_models_and_reader_are_compared_on_the_same_patients(tmp_path: Path) -> None:
    site, settings = worker(tmp_path, unread=10), with_reader()
    patients, labels = np.arange(PATIENTS), cohort().tensors.label.numpy()
    first, second = draw(labels, 1), draw(labels, 2)
    models = {"federated": (keep(tmp_path, "main", patients, first),), "local": (keep(tmp_path, "own", patients, second),)}
    reply = ask(site, CompareRequest(task(settings), "federated", models))
    assert isinstance(reply, CompareReply)
    pair, reading = reply.comparisons["local"], reply.readings["reader"]
    assert pair.auc.value == pytest.approx(roc_auc_score(labels, first) - roc_auc_score(labels, second))
    assert reply.performances["local"].auc.value == pytest.approx(roc_auc_score(labels, second))
    ratings = cohort().ratings["reader"][10:]
    assert (reading.patients, reading.without) == (50, 10)
    assert reading.own_auc.value == pytest.approx(roc_auc_score(labels[10:], ratings))
    called = reading.calls[0]
    assert called.positives.both + called.positives.second == int(ratings[labels[10:] == 1].sum())
    admitted = admit_comparison(
        Message(reply), request=CompareRequest(task(settings), "federated", models), protocol=settings, patients=PATIENTS
    )
    assert admitted == reply


def test_only_sites_without_readings_are_said_to_have_none(tmp_path: Path) -> None:
    site, settings = worker(tmp_path, unread=10), with_reader()
    scores = keep(tmp_path, "main", np.arange(PATIENTS), draw(cohort().tensors.label.numpy(), 1))
    reply = ask(site, CompareRequest(task(settings), "federated", {"federated": (scores,)}))
    assert isinstance(reply, CompareReply)
    found = comparators({"a": reply, "b": replace(reply, site="b", readings={})}, settings)["reader"]
    assert list(found["sites"]) == ["a"]
    assert found["without"] == [{"site": "b", "why": "no readings"}]


def test_folds_are_put_together_and_ranked_apart(tmp_path: Path) -> None:
    site, settings = worker(tmp_path), with_reader()
    labels = cohort().tensors.label.numpy()
    scores = draw(labels, 1)
    folds = np.arange(PATIENTS) % 3
    shifted = np.clip(scores * 0.3 + 0.3 * folds, 0, 1)  # a scale of its own in each fold
    kept = tuple(keep(tmp_path, f"fold-{k}", np.flatnonzero(folds == k), shifted[folds == k]) for k in range(3))
    reply = ask(site, CompareRequest(task(settings), "federated", {"federated": kept}))
    found = reply.performances["federated"]
    pairs = [(folds == k) & (labels == 1) for k in range(3)], [(folds == k) & (labels == 0) for k in range(3)]
    weights = [p.sum() * n.sum() for p, n in zip(*pairs, strict=True)]
    aucs = [roc_auc_score(labels[folds == k], scores[folds == k]) for k in range(3)]
    assert found.auc.value == pytest.approx(np.average(aucs, weights=weights))
    assert found.auc.low < found.auc.value < found.auc.high
    assert found.sums.count == PATIENTS


def test_one_fold_is_delong(tmp_path: Path) -> None:
    labels = cohort().tensors.label.double().numpy()
    from shared_model import metrics
    from shared_model.paired import stratified_auc

    scores = draw(labels, 1)
    one, exact = stratified_auc(scores, labels, np.zeros(labels.size, np.int64)), metrics.auc_interval(scores, labels)
    assert (one.value, one.low, one.high) == pytest.approx((exact.value, exact.low, exact.high))


@pytest.mark.parametrize("fault", ["gone", "twice", "beyond", "other site's", "unnamed"])
def test_what_was_not_kept_is_refused(tmp_path: Path, fault: str) -> None:
    settings, labels = with_reader(), cohort().tensors.label.numpy()
    kept = keep(tmp_path, "main", np.arange(PATIENTS), draw(labels, 1))
    if fault == "beyond":
        kept = keep(tmp_path, "beyond", np.array([PATIENTS]), np.array([0.5]))
    models = {"federated": (kept, kept) if fault == "twice" else (kept,)}
    if fault == "gone":
        models["local"] = (ScoredModel("nowhere", 1),)
    request = CompareRequest(task(settings), "other" if fault == "unnamed" else "federated", models)
    if fault == "other site's":
        request = replace(request, task=replace(request.task, site="b"))
    with pytest.raises(RefusedError):
        compare(cohort(), request, settings, directory=lambda run: tmp_path / run / request.task.site)


def test_a_run_cannot_name_a_folder_elsewhere(tmp_path: Path) -> None:
    request = CompareRequest(task(with_reader()), "federated", {"federated": (ScoredModel("../secret", 1),)})
    assert ask(worker(tmp_path), request).code is FailureCode.PROTOCOL_MISMATCH


def test_models_of_other_patients_are_not_compared(tmp_path: Path) -> None:
    site, settings, labels = worker(tmp_path), with_reader(), cohort().tensors.label.numpy()
    models = {
        "federated": (keep(tmp_path, "main", np.arange(PATIENTS), draw(labels, 1)),),
        "local": (keep(tmp_path, "own", np.arange(50), draw(labels, 2)[:50]),),
    }
    reply = ask(site, CompareRequest(task(settings), "federated", models))
    assert reply.comparisons == {}
    assert set(reply.performances) == {"federated", "local"}


def test_few_patients_and_small_cells_do_not_leave(tmp_path: Path) -> None:
    site, settings, labels = worker(tmp_path, unread=3), with_reader(), cohort().tensors.label.numpy()
    few = np.concatenate([np.flatnonzero(labels == 1)[:4], np.flatnonzero(labels == 0)[:20]])
    scores = draw(labels, 1)
    models = {name: (keep(tmp_path, name, few, scores[few]),) for name in ("federated", "local")}
    reply = ask(site, CompareRequest(task(settings), "federated", models))
    assert (reply.performances, reply.comparisons, reply.readings) == ({}, {}, {})
    assert {s.what: s.why for s in reply.suppressed} == {
        "performance of federated": Why.FEW_OF_A_CLASS,
        "performance of local": Why.FEW_OF_A_CLASS,
        "comparison with local": Why.FEW_OF_A_CLASS,
        "comparator reader": Why.FEW_OF_A_CLASS,
    }
    everybody = {"federated": (keep(tmp_path, "all", np.arange(PATIENTS), scores),)}
    reply = ask(site, CompareRequest(task(settings, "another"), "federated", everybody))
    assert reply.readings == {}  # three patients without a reading are a small cell
    assert [s.why for s in reply.suppressed] == [Why.SMALL_CELL]


def test_a_site_that_does_not_evaluate_does_not_compare(tmp_path: Path) -> None:
    site = worker(tmp_path, policy=Policy(tasks=("describe", "train")))
    request = CompareRequest(task(with_reader()), "federated", {"federated": (ScoredModel("main", 1),)})
    assert ask(site, request).code is FailureCode.TASK_NOT_ALLOWED


@pytest.mark.parametrize("change", ["model", "comparator", "threshold", "cells", "patients", "kind"])
def test_an_answer_that_does_not_fit_is_refused(tmp_path: Path, change: str) -> None:
    settings, labels = with_reader(), cohort().tensors.label.numpy()
    models = {
        name: (keep(tmp_path, name, np.arange(PATIENTS), draw(labels, seed)),)
        for seed, name in enumerate(("federated", "local"))
    }
    request = CompareRequest(task(settings), "federated", models)
    reply = ask(worker(tmp_path), request)
    pair = reply.comparisons["local"]
    calls = pair.calls[0]
    broken = {
        "model": replace(reply, performances={"other": reply.performances["local"]}),
        "comparator": replace(reply, readings={"other": reply.readings["reader"]}),
        "threshold": replace(reply, comparisons={"local": replace(pair, calls=(replace(calls, threshold=0.123),))}),
        "cells": replace(
            reply,
            comparisons={"local": replace(pair, calls=(replace(calls, positives=replace(calls.positives, both=999)),))},
        ),
        "patients": replace(reply, comparisons={"local": replace(pair, patients=10**6)}),
        "kind": Failure("a", "token", FailureCode.INTERNAL, 0.0),
    }[change]
    with pytest.raises(RefusedError):
        admit_comparison(Message(broken), request=request, protocol=settings, patients=PATIENTS)


def test_a_study_with_readers_and_own_models_ends_with_comparisons(tmp_path: Path) -> None:
    settings = with_reader(federation={"client_rule": {"kind": "ditto", "strength": 0.1}})
    found = {site: cohort(seed=sum(site.encode())) for site in SITES}
    parts = {site: sites.cut(own.tensors, shares=(0.4, 0.2, 0.4)).parts for site, own in found.items()}
    workers = {
        site: Worker(
            site,
            policy=Policy(minimum_gradient=1),
            load=lambda _, site=site: replace(found[site], parts=parts[site]),  # type: ignore[misc]
            state=tmp_path / "state",
            approvals=sites.AnyProtocol(tmp_path / site),
        )
        for site in SITES
    }
    conduct(sites.Loopback(workers), start(tmp_path, settings))  # type: ignore[arg-type]
    with Journal(tmp_path) as journal:
        record = journal.record()
    assert record.failures == ()
    assert set(record.comparisons) == set(SITES)
    for reply in record.comparisons.values():
        assert set(reply.comparisons) == {"personal"}
        assert reply.comparisons["personal"].patients == 24
        assert reply.readings["reader"].patients == 24
