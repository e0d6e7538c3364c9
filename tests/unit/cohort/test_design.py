"""Folds and sites left out: who is tested, and that nobody is trained on and tested at once."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.cohort import StudyPatients, designed
from client.worker import open_site
from shared_model.protocol import Evaluation, StudyProtocol, read_protocol
from shared_model.protocol_design import Fold
from shared_model.summaries import CohortFlow
from tests import sites, tables
from tests.unit.test_study import protocol


def cohort(labels: list[int], *, seed: int = 0, shares: tuple[float, float, float] = (0.6, 0.2, 0.2)) -> StudyPatients:
    data = sites.tensors(patients=len(labels), seed=0)
    drawn = sites.cut(data, shares=shares)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    tensors = type(data)(**(data.__dict__ | {"label": torch.tensor(labels, dtype=torch.float32)}))
    return StudyPatients(tensors, drawn.parts, CohortFlow(len(labels), {}, 0, 0), order=order)


def under(fold: Fold | None = None, external: tuple[str, ...] = ()) -> StudyProtocol:
    base = protocol()
    return base.model_copy(update={"evaluation": Evaluation(fold=fold, external=external)})


@given(
    labels=st.lists(st.integers(0, 1), min_size=1, max_size=60),
    folds=st.integers(2, 8),
    seed=st.integers(0, 5),
    shares=st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.5, 0.4, 0.1)]),
)
def test_the_folds_test_every_patient_once_and_are_even_in_size_and_outcome(
    labels: list[int], folds: int, seed: int, shares: tuple[float, float, float]
) -> None:
    patients = cohort(labels, seed=seed, shares=shares)
    cuts = [designed(patients, under(Fold(k=k, of=folds)), site="a").parts for k in range(1, folds + 1)]
    tested = Counter(patient for cut in cuts for patient in cut["test"].tolist())
    assert tested == dict.fromkeys(range(len(labels)), 1)
    for outcome in (0, 1):
        counts = [sum(labels[patient] == outcome for patient in cut["test"].tolist()) for cut in cuts]
        assert max(counts) - min(counts) <= 1
    sizes = [len(cut["test"]) for cut in cuts]
    assert max(sizes) - min(sizes) <= 1
    for cut in cuts:
        everybody = sorted(patient for part in cut.values() for patient in part.tolist())
        trained_before = len(patients.parts["train"]) + len(patients.parts["tune"])
        assert everybody == (list(range(len(labels))) if trained_before else sorted(cut["test"].tolist()))


def test_a_fold_is_the_same_each_time() -> None:
    patients = cohort([0, 1] * 20, seed=3)
    first, again = (designed(patients, under(Fold(k=2, of=5)), site="a").parts for _ in range(2))
    assert all(torch.equal(first[part], again[part]) for part in first)


def test_tuning_patients_keep_their_share_and_differ_from_fold_to_fold() -> None:
    patients = cohort([0, 0, 1] * 40)
    tuning = [set(designed(patients, under(Fold(k=k, of=4)), site="a").parts["tune"].tolist()) for k in range(1, 5)]
    assert {len(members) for members in tuning} <= {22, 23}  # a quarter of the 90 that are not tested
    assert not tuning[0] & tuning[2]


def test_an_external_site_is_tested_whole_and_others_keep_their_split() -> None:
    patients = cohort([0, 1] * 10)
    cut = designed(patients, under(external=("a",)), site="a").parts
    assert (len(cut["train"]), len(cut["tune"]), len(cut["test"])) == (0, 0, 20)
    assert designed(patients, under(external=("a",)), site="b") is patients


def test_an_external_site_stays_external_in_every_fold() -> None:
    patients = cohort([0, 1] * 10)
    cut = designed(patients, under(Fold(k=1, of=5), ("a",)), site="a").parts
    assert len(cut["test"]) == 20


def test_one_approval_covers_folds_and_sites_left_out_but_nothing_else() -> None:
    base = under()
    fold, without = under(Fold(k=1, of=5)), under(external=("a",))
    assert len({base.sha256, fold.sha256, without.sha256}) == 3
    assert fold.base.sha256 == without.base.sha256 == base.sha256
    other = base.model_copy(update={"evaluation": Evaluation(thresholds=(0.3,))})
    assert other.base.sha256 != base.sha256


def test_a_worker_cuts_what_it_read_without_reading_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_protocol(tables.write_study(tmp_path))
    worker = open_site(tables.write_sites(tmp_path)[0], state=tmp_path / "state")
    plain = worker.cohort(study)
    monkeypatch.setattr("client.worker.load_cohort", lambda *_, **__: pytest.fail("read again"))
    evaluation = study.evaluation.model_copy(update={"fold": Fold(k=1, of=4)})
    fold = worker.cohort(study.model_copy(update={"evaluation": evaluation}))
    assert len(fold.parts["test"]) == 20
    assert fold.tensors is plain.tensors
    assert sorted(fold.order.tolist()) == list(range(80))
    assert fold.order.tolist() != list(range(80))
