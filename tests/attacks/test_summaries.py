"""A center that subtracts: one cohort version from the next, a subgroup from the whole, a threshold from its neighbour; and one
that sends a model made to ask about somebody."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from client.cohort import StudyPatients
from client.governance.disclosure import release
from client.site_config import Policy
from client.tasks.scoring import performance
from client.worker import Worker
from shared_model.disclosure import Rule
from shared_model.messages import DescribeReply, DescribeRequest, EvaluateReply, EvaluateRequest, Message
from shared_model.protocol import Evaluation
from shared_model.summaries import Performance
from tests.attacks.cohorts import SHIPPED, UNGUARDED, all_training, ask, plain_scale, site, start_model, tabular, task
from tests.sites import cut
from tests.unit.test_study import protocol

pytestmark = pytest.mark.attacks
STUDY = protocol()
TARGET = 17


# Cohort versions


def without(patients: StudyPatients, target: int) -> StudyPatients:
    kept = torch.tensor([place for place in range(len(patients.tensors)) if place != target])
    data = patients.tensors
    columns = ("slots", "views", "numeric", "numeric_present", "categorical", "label")
    return all_training(replace(data, **{name: getattr(data, name)[kept] for name in columns}))


def differenced(folder: Path, *, policy: Policy) -> float | None:
    """What the center takes the target's value of variable a to be, from two descriptions; None if one is refused."""
    before = all_training(tabular(patients=60, variables=2))
    totals = []
    for attempt, patients in (("first", before), ("second", without(before, TARGET))):
        reply = ask(site(folder, patients, policy=policy), DescribeRequest(task(STUDY, attempt=attempt))).record
        if not isinstance(reply, DescribeReply):
            return None
        totals.append(reply.moments["a"].total)
    return totals[0] - totals[1]


def test_two_versions_of_a_cohort_do_not_tell_of_one_patient(tmp_path: Path) -> None:
    assert differenced(tmp_path, policy=SHIPPED) is None


@pytest.mark.parametrize("weak", [UNGUARDED, Policy(small_changes="allow")], ids=["no cells", "small changes allowed"])
def test_they_do_where_small_changes_are_allowed(tmp_path: Path, weak: Policy) -> None:
    value = float(tabular(patients=60, variables=2).numeric[TARGET, 0])
    assert differenced(tmp_path, policy=weak) == pytest.approx(value, abs=1e-4)


# Models that ask about somebody


def probe(worker: Worker, weights: np.ndarray) -> Performance | None:
    spec, _ = start_model(STUDY)
    request = EvaluateRequest(task(STUDY), spec.sha256, plain_scale(STUDY), basis=0, parts=("test",))
    reply = ask(worker, request, weights=weights).record
    assert isinstance(reply, EvaluateReply)
    return reply.parts.get("test")


@pytest.fixture
def patients() -> StudyPatients:
    """Forty test patients; the value of one stands out, as it may well be known to."""
    data = tabular(patients=40, variables=2)
    data.numeric[TARGET] = torch.tensor([9.0, 0.0])
    return cut(data, shares=(0.0, 0.0, 1.0))


PROBE = np.array([2.0, 0.0, -9.0], np.float32)  # sigmoid(2 a - 9): above 0.5 for nobody else


def test_a_probe_tells_the_outcome_of_a_patient_where_cells_are_not_guarded(tmp_path: Path, patients: StudyPatients) -> None:
    told = probe(site(tmp_path, patients, policy=UNGUARDED), PROBE)
    assert told is not None
    counts = told.thresholds[0]
    assert (counts.true_positive, counts.false_positive) == (
        int(patients.tensors.label[TARGET]),
        1 - int(patients.tensors.label[TARGET]),
    )


def test_a_probe_tells_nothing_of_a_patient_at_shipped_settings(tmp_path: Path, patients: StudyPatients) -> None:
    told = probe(site(tmp_path / "a", patients), PROBE)
    flipped = patients.tensors.label.clone()
    flipped[TARGET] = 1.0 - flipped[TARGET]
    other = replace(patients, tensors=replace(patients.tensors, label=flipped))
    told_of_other = probe(site(tmp_path / "b", other), PROBE)
    for found in (told, told_of_other):
        assert found is None or found.thresholds[0].true_positive + found.thresholds[0].false_positive == 0


# Cells of one reply


def cells(told: Performance) -> Iterator[int]:
    """Every count of patients that follows from a performance by itself or by subtraction of neighbours."""
    called = [told.sums.count, *(c.true_positive + c.false_positive for c in told.thresholds), 0]
    yield from (high - low for high, low in pairwise(called))
    yield from told.histogram.negatives
    yield from told.histogram.positives


def smallest_cells(rule: Rule) -> list[int]:
    """The smallest cell that is told of each of fifty models."""
    found = []
    thresholds = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        labels = (rng.random(48) < 0.4).astype(float)
        scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0.0, 1.0)
        exact = performance(scores, labels, evaluation=Evaluation(thresholds=thresholds))
        reply = release(Message(EvaluateReply("s", "a", {"test": exact}, {}, 0.0)), rule=rule).record
        assert isinstance(reply, EvaluateReply)
        found += [min(cell for cell in cells(told) if cell) for told in reply.parts.values()]
    return found


def test_no_cell_of_a_few_follows_from_a_performance() -> None:
    assert min(smallest_cells(Rule())) >= 5


def test_cells_of_one_follow_where_nothing_guards_them() -> None:
    assert min(smallest_cells(Rule(minimum_patients=1, minimum_cell=1))) == 1
