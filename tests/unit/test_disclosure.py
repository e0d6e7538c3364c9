"""Disclosure control: a closed set of replies, no statistic of a few, no small cell, and none by subtraction."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from client.governance.disclosure import release
from client.site_config import Policy
from client.tasks.scoring import performance
from server.journal import Journal
from server.results.document import assemble
from server.study import conduct
from shared_model.disclosure import Rule, Suppression, Why
from shared_model.errors import RefusedError
from shared_model.messages import DescribeReply, EvaluateReply, Message, TrainReply, decode, encode
from shared_model.metrics import histogram_auc
from shared_model.protocol import Evaluation
from shared_model.summaries import CategoryCounts, CohortFlow, Moments, PartCounts, Performance
from tests.sites import Loopback, worker
from tests.unit.test_study import finished, protocol, start

RULE = Rule()


def scored(*, patients: int, positives: int) -> Performance:
    scores = np.linspace(0.01, 0.99, patients)
    return performance(scores, (np.arange(patients) < positives).astype(float), evaluation=Evaluation())


def description(**changes: object) -> DescribeReply:
    stated = {
        "site": "s",
        "attempt": "a",
        "flow": CohortFlow(120, {"no outcome": 20}, 0, 0),
        "parts": {"train": PartCounts(60, 30), "tune": PartCounts(20, 10), "test": PartCounts(20, 10)},
        "moments": {"age": Moments(60, 3000.0, 160_000.0)},
        "categories": {"sex": CategoryCounts((40, 20))},
        "missing": {"age": 0, "sex": 0},
        "modalities": {"clinical": 100},
        "seconds": 0.0,
    }
    return DescribeReply(**(stated | changes))  # type: ignore[arg-type]


def told(reply: DescribeReply) -> DescribeReply:
    record = release(Message(reply), rule=RULE).record
    assert isinstance(record, DescribeReply)
    return record


def test_a_reply_without_a_rule_does_not_leave() -> None:
    @dataclass(frozen=True)
    class Novel:
        kind: str = "novel"

    with pytest.raises(RefusedError, match="no rule"):
        release(Message(Novel()), rule=RULE)  # type: ignore[arg-type]


def test_an_ordinary_description_leaves_as_it_is() -> None:
    assert told(description()) == description()


@pytest.mark.parametrize(
    ("patients", "positives", "why"),
    [
        (10, 5, None),
        (9, 5, Why.FEW_PATIENTS),
        (40, 4, Why.FEW_OF_A_CLASS),
        (40, 36, Why.FEW_OF_A_CLASS),
        (40, 0, Why.FEW_OF_A_CLASS),
    ],
)
def test_a_performance_needs_enough_patients_of_each_outcome(patients: int, positives: int, why: Why | None) -> None:
    result = scored(patients=patients, positives=positives)
    evaluated = release(Message(EvaluateReply("s", "a", {"test": result}, {"test": result}, 0.0)), rule=RULE).record
    trained = release(Message(TrainReply("s", "a", 60, 1, 0.5, result, 0.0)), rule=RULE).record
    assert isinstance(evaluated, EvaluateReply)
    assert isinstance(trained, TrainReply)
    assert ("test" in evaluated.parts) == ("test" in evaluated.personal) == (trained.tune is not None) == (why is None)
    assert {item.why for item in (*evaluated.suppressed, *trained.suppressed)} == ({why} if why else set())
    assert len(evaluated.suppressed) == (2 if why else 0)


def test_the_loss_of_few_patients_does_not_leave() -> None:
    few = release(Message(TrainReply("s", "a", 9, 1, 0.5, None, 0.0)), rule=RULE).record
    assert isinstance(few, TrainReply)
    assert few.loss is None
    assert few.suppressed == (Suppression("training loss", Why.FEW_PATIENTS),)


def test_few_positives_of_a_part_are_not_counted() -> None:
    parts = {"train": PartCounts(8, 4), "tune": PartCounts(20, 17), "test": PartCounts(20, 0)}
    reply = told(description(parts=parts, moments={}, categories={}, missing={}, modalities={}))
    assert reply.parts == {"train": PartCounts(8, None), "tune": PartCounts(20, None), "test": PartCounts(20, 0)}


@pytest.mark.parametrize(
    ("excluded", "expected", "found"),
    [
        ({"a": 30, "b": 2, "c": 9}, {"a": 30, "other reasons": 11}, 200),
        ({"a": 30, "b": 2, "c": 4}, {"a": 30, "other reasons": 6}, 200),
        ({"a": 2, "b": 2}, {}, None),
        ({"a": 30}, {"a": 30}, 200),
        ({}, {}, 200),
    ],
)
def test_few_patients_left_out_are_told_together(excluded: dict, expected: dict, found: int | None) -> None:
    flow = told(description(flow=CohortFlow(200, excluded, 0, 0))).flow
    assert (flow.excluded, flow.found) == (expected, found)


def test_few_missing_values_cannot_be_counted_from_anything_that_is_told() -> None:
    values = np.arange(57.0)
    reply = told(
        description(
            moments={"age": Moments.of(values)},
            categories={"sex": CategoryCounts((38, 20))},
            missing={"age": 3, "sex": 2},
            modalities={"clinical": 97},
        )
    )
    assert reply.missing == {"age": None, "sex": None}
    assert reply.modalities == {"clinical": None}
    assert reply.moments["age"].count == 60
    assert reply.moments["age"].mean == pytest.approx(values.mean())
    assert reply.moments["age"].standard_deviation == pytest.approx(values.std(ddof=1))
    assert reply.categories["sex"].counts == (40, 20)


def test_few_missing_among_the_rest_are_not_told_by_the_total() -> None:
    reply = told(description(moments={"age": Moments(48, 2400.0, 130_000.0)}, missing={"age": 14, "sex": 0}))
    assert reply.missing["age"] is None, "12 training patients without age are told by the moments: 14 would tell of 2 others"
    assert (
        told(description(moments={"age": Moments(48, 2400.0, 130_000.0)}, missing={"age": 24, "sex": 0})).missing["age"] == 24
    )


def test_a_whole_column_may_be_missing() -> None:
    reply = told(description(moments={"age": Moments()}, missing={"age": 100, "sex": 0}))
    assert reply.suppressed == ()


@pytest.mark.parametrize("moments", [Moments.of(np.arange(4.0)), Moments.of(np.array([0.0] * 57 + [1.0] * 3))])
def test_moments_of_a_few_do_not_leave(moments: Moments) -> None:
    assert told(description(moments={"age": moments}, missing={"age": 100 - moments.count, "sex": 0})).moments["age"].count == 0


def test_codes_one_and_two_are_a_table_too() -> None:
    coded = Moments.of(np.array([1.0] * 58 + [2.0] * 2))
    assert told(description(moments={"age": coded})).moments["age"] == Moments()
    enough = Moments.of(np.array([1.0] * 50 + [2.0] * 10))
    assert told(description(moments={"age": enough})).moments["age"] == enough


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((58, 2), (0, 0)),
        ((40, 18, 2), (40, 0, 0)),
        ((40, 14, 3, 3), (40, 14, 0, 0)),
        ((55, 5, 0), (55, 5, 0)),
    ],
)
def test_a_small_cell_takes_another_with_it(counts: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert told(description(categories={"sex": CategoryCounts(counts)})).categories["sex"].counts == expected


def test_what_was_suppressed_crosses_the_network_in_closed_words_only() -> None:
    envelope = encode(Message(told(description(flow=CohortFlow(102, {"a": 2}, 0, 0)))))
    assert decode(envelope).record.suppressed == (Suppression("patients left out", Why.SMALL_CELL),)  # type: ignore[union-attr]
    with pytest.raises(Exception, match="not a message"):
        decode(type(envelope)(envelope.header.replace(Why.SMALL_CELL.encode(), b"patient 17"), envelope.payload))


def test_a_study_of_small_sites_trains_and_says_what_was_left_out(tmp_path: Path) -> None:
    shipped = Policy()
    sites = {
        "large": worker("large", tmp_path / "s", patients=400, policy=shipped),
        "scanner": worker("scanner", tmp_path / "s", patients=14, policy=shipped),
        "rare": worker("rare", tmp_path / "s", patients=60, positives=0.06, policy=shipped),
    }
    conduct(Loopback(sites), start(tmp_path, protocol(training={"epochs": 2}), tuple(sorted(sites))))
    record = finished(tmp_path)
    assert record.failures == ()
    assert all(tuple(row.sites) == ("large", "rare", "scanner") for row in record.rounds)
    assert {name for name, reply in record.evaluations.items() if "test" in reply.parts} == {"large"}
    document = assemble(record)
    of_large = {item["what"] for item in document["sites"]["large"]["suppressed"]}
    assert of_large <= {f"counts at some thresholds on {part} patients" for part in ("tune", "test")}
    said = {item["what"]: item["why"] for item in document["sites"]["scanner"]["suppressed"]}
    assert said["performance on test patients"] == Why.FEW_PATIENTS.value
    assert said["training loss"] == Why.FEW_PATIENTS.value
    [auc] = [item for item in document["sites"]["rare"]["not_estimable"] if item["metric"] == "auc"]
    assert auc["why"] == f"suppressed: {Why.FEW_OF_A_CLASS.value}"
    with Journal(tmp_path) as journal:
        assert journal.finished


def test_a_histogram_leaves_only_coarse_and_its_auc_with_an_honest_bound() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(60) < 25).astype(float)
    scores = np.clip(0.4 + 0.2 * labels + 0.15 * rng.standard_normal(60), 0.0, 1.0)
    exact = performance(scores, labels, evaluation=Evaluation())
    [reply] = [release(Message(EvaluateReply("s", "a", {"test": exact}, {}, 0.0)), rule=RULE).record]
    assert isinstance(reply, EvaluateReply)
    told = reply.parts["test"].histogram
    assert min(exact.histogram.negatives) == 0 or len(exact.histogram.negatives) > len(told.negatives)
    assert all(count == 0 or count >= 5 for count in (*told.negatives, *told.positives))
    assert (sum(told.negatives), sum(told.positives)) == (35, 25)
    binned, true = histogram_auc(told), exact.auc
    assert binned is not None
    assert true is not None
    assert abs(binned[0] - true.value) <= binned[1]


@pytest.mark.parametrize(
    ("thresholds", "called"),
    [
        ((0.05, 0.5, 0.95), (40, 20, 0)),  # 38 and 2 called are told as everybody and nobody
        ((0.5, 0.55, 0.7), (20, 20, 12)),  # two between 0.5 and 0.55
        ((0.2, 0.4, 0.6, 0.8), (32, 24, 16, 8)),
    ],
)
def test_no_two_thresholds_single_out_a_few(thresholds: tuple[float, ...], called: tuple[int, ...]) -> None:
    scores = (np.arange(40) + 0.5) / 40
    result = performance(scores, (np.arange(40) % 2).astype(float), evaluation=Evaluation(thresholds=thresholds))
    reply = release(Message(EvaluateReply("s", "a", {"test": result}, {}, 0.0)), rule=RULE).record
    assert isinstance(reply, EvaluateReply)
    told = reply.parts["test"].thresholds
    assert tuple(counts.true_positive + counts.false_positive for counts in told) == called
    assert all(counts.true_positive + counts.false_negative == 20 for counts in told)


def test_a_model_made_to_ask_about_one_patient_gets_no_answer() -> None:
    labels = (np.arange(40) < 20).astype(float)
    probe = np.where(np.arange(40) == 7, 0.9, 0.1)
    why = release(
        Message(EvaluateReply("s", "a", {"test": performance(probe, labels, evaluation=Evaluation())}, {}, 0.0)), rule=RULE
    )
    assert isinstance(why.record, EvaluateReply)
    assert [item.why for item in why.record.suppressed] == [Why.ALIKE]
