"""What a site says of a model on its test patients: intervals, curves, recalibration, subgroups, and what stays there."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.nonparametric.smoothers_lowess import lowess

from client.cohort.tensors import CohortTensors
from client.tasks import groups
from client.tasks.assessing import OWN_TUNING, Scored, assess, suppressed_levels
from server.assessment_admission import admit_assessment
from shared_model import metrics
from shared_model.metrics.bootstrap import bootstrap
from shared_model.protocol_evaluation import Evaluation
from tests.fake_run import PROTOCOL

EVALUATION = Evaluation(thresholds=(0.3,), bootstrap=400)


def draw(n: int, seed: int = 0, *, shift: float = 0.0, steep: float = 1.0) -> Scored:
    """Patients of known risk; their scores are off by ``shift`` and ``steep`` on the scale of log odds."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1.0, 1.2, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    return Scored(1 / (1 + np.exp(-(shift + steep * logit))), labels)


def assessed(test: Scored, tune: Scored, *, minimum_cell: int = 5, **masks):
    given_ = {"subgroups": {}, "modalities": {}} | masks
    return assess(test, tune, evaluation=EVALUATION, minimum_cell=minimum_cell, seed=0, **given_)


NOBODY = Scored(np.zeros(0), np.zeros(0))


class TestSmoothing:
    def test_is_the_lowess_of_statsmodels(self):
        patients = draw(300)
        found = metrics.smoothed(patients.scores, patients.labels)
        theirs = lowess(patients.labels, patients.scores, frac=0.75, it=0)
        assert found.predicted == pytest.approx(theirs[:, 0])
        assert found.observed == pytest.approx(np.clip(theirs[:, 1], 0, 1))
        distance = np.abs(np.clip(theirs[:, 1], 0, 1) - theirs[:, 0])
        assert found.errors == pytest.approx((distance.mean(), np.median(distance), np.quantile(distance, 0.9)))

    def test_of_many_patients_is_hardly_coarser(self):
        patients = draw(3000)
        found = metrics.smoothed(patients.scores, patients.labels)
        theirs = lowess(patients.labels, patients.scores, frac=0.75, it=0, delta=0.0)
        assert np.abs(found.observed - np.clip(theirs[:, 1], 0, 1)).max() < 0.003

    @pytest.mark.parametrize(
        ("scores", "labels"),
        [
            (np.linspace(0.1, 0.9, 9), np.tile([0.0, 1.0, 0.0], 3)),
            (np.full(50, 0.3), np.tile([0.0, 1.0], 25)),
            (np.linspace(0, 1, 50), np.ones(50)),
            (np.zeros(0), np.zeros(0)),
            (np.repeat([0.2, 0.9], [46, 4]), np.tile([0.0, 1.0], 25)),
        ],
        ids=["few", "constant", "one class", "nobody", "mostly tied"],
    )
    def test_that_cannot_be(self, scores, labels):
        assert metrics.smoothed(scores, labels) is None


class TestBootstrap:
    def test_is_that_of_drawing_patients_one_by_one(self):
        patients = draw(150, seed=3)
        scores, labels = patients.scores, patients.labels
        found = bootstrap(scores, labels, replicates=3000, seed=1)
        rng = np.random.default_rng(7)
        classes = [np.flatnonzero(labels == label) for label in (0, 1)]
        brier, precision = [], []
        for _ in range(1500):
            drawn = np.concatenate([rng.choice(members, members.size) for members in classes])
            brier.append(np.mean((scores[drawn] - labels[drawn]) ** 2))
            precision.append(metrics.average_precision(scores[drawn], labels[drawn]))
        for name, theirs in (("brier", brier), ("average_precision", precision)):
            ours = found.statistics[name]
            assert ours.mean() == pytest.approx(np.mean(theirs), abs=4 * np.std(theirs) / np.sqrt(1500))
            assert ours.std() == pytest.approx(np.std(theirs), rel=0.1)

    def test_of_the_sample_itself_are_its_statistics(self):
        patients = draw(400, seed=5)
        sums = metrics_sums(patients)
        found = bootstrap(patients.scores, patients.labels, replicates=200, seed=0).sample
        assert found["brier"] == pytest.approx(metrics.brier(sums))
        assert found["scaled_brier"] == pytest.approx(metrics.scaled_brier(sums))
        assert found["log_loss"] == pytest.approx(metrics.log_loss(sums))
        assert found["average_precision"] == pytest.approx(metrics.average_precision(patients.scores, patients.labels))
        for name, exact in zip(("ici", "e50", "e90"), metrics.smoothed(patients.scores, patients.labels).errors, strict=True):
            assert found[name] == pytest.approx(exact, abs=0.004)

    def test_of_many_patients_share_scores_without_harm(self):
        patients = draw(20_000, seed=6)
        found = bootstrap(patients.scores, patients.labels, replicates=200, seed=0)
        assert found.sample["brier"] == pytest.approx(metrics.brier(metrics_sums(patients)), abs=1e-5)
        exact = metrics.average_precision(patients.scores, patients.labels)
        assert found.sample["average_precision"] == pytest.approx(exact, abs=2e-3)
        errors = (patients.scores - patients.labels) ** 2
        within = sum(np.sum(patients.labels == label) * errors[patients.labels == label].var() for label in (0, 1))
        assert found.statistics["brier"].std() == pytest.approx(np.sqrt(within) / 20_000, rel=0.15)

    def test_same_seed_draws_the_same(self):
        patients = draw(60)
        first, second = (bootstrap(patients.scores, patients.labels, replicates=300, seed=4) for _ in range(2))
        assert np.array_equal(first.statistics["ici"], second.statistics["ici"])

    @given(st.integers(1, 12), st.integers(0, 1000))
    @settings(deadline=None, max_examples=30)
    def test_never_fails(self, n, seed):
        rng = np.random.default_rng(seed)
        scores, labels = rng.choice([0.0, 0.2, 0.2, 1.0], n), (rng.random(n) < 0.5).astype(float)
        found = bootstrap(scores, labels, replicates=200, seed=0)
        assert (found is None) == (labels.mean() in {0.0, 1.0})
        if found is not None:
            for name, value in found.sample.items():
                estimate = found.interval(name, value)
                assert np.isfinite([estimate.low, estimate.high]).all()
                assert estimate.low <= estimate.value <= estimate.high


def metrics_sums(patients: Scored):
    from shared_model.counts import ScoreSums

    return ScoreSums.of(patients.scores, patients.labels)


class TestAssessment:
    def test_of_many_patients_has_everything_with_intervals(self):
        found = assessed(draw(400), draw(200, seed=1))
        assert set(found.metrics) == {
            *("auc", "average_precision", "brier", "scaled_brier", "log_loss", "oe_ratio"),
            *("calibration_intercept", "calibration_slope", "ici", "e50", "e90"),
        }
        assert all(estimate.low <= estimate.value <= estimate.high for estimate in found.metrics.values())
        assert sum(point.patients for point in found.calibration_curve) == 400
        assert [chosen.rule for chosen in found.thresholds] == ["sensitivity 0.90", "sensitivity 0.95", "youden"]
        assert {chosen.chosen_on for chosen in found.thresholds} == {OWN_TUNING}

    def test_thresholds_keep_their_promise_on_the_patients_they_were_chosen_on(self):
        tune = draw(300, seed=2)
        found = assessed(tune, tune)
        by_rule = {chosen.rule: metrics.sensitivity(chosen.counts).value for chosen in found.thresholds}
        assert 0.90 <= by_rule["sensitivity 0.90"] < 0.93
        assert 0.95 <= by_rule["sensitivity 0.95"] < 0.98
        youden = next(chosen.counts for chosen in found.thresholds if chosen.rule == "youden")
        best = max(
            np.mean(tune.scores[tune.labels == 1] >= t) - np.mean(tune.scores[tune.labels == 0] >= t)
            for t in np.arange(1, 200) / 200
        )
        assert metrics.sensitivity(youden).value + metrics.specificity(youden).value - 1 == pytest.approx(best)

    def test_recalibration_repairs_what_was_spoilt(self):
        test, tune = draw(1500, shift=1.5, steep=1.6), draw(800, seed=1, shift=1.5, steep=1.6)
        found = assessed(test, tune)
        assert found.metrics["ici"].value > 0.1
        intercept, logistic = found.recalibrated
        assert (intercept.kind, intercept.slope) == ("intercept", 1.0)
        assert logistic.slope == pytest.approx(1 / 1.6, abs=0.1)
        assert logistic.intercept == pytest.approx(-1.5 / 1.6, abs=0.25)
        assert logistic.metrics["ici"].value < 0.03
        assert logistic.metrics["calibration_slope"].low < 1.0 < logistic.metrics["calibration_slope"].high
        assert logistic.metrics["auc"].value == pytest.approx(found.metrics["auc"].value)
        assert (logistic.patients, logistic.events) == (800, tune.events)

    @pytest.mark.parametrize("tune", [NOBODY, draw(8, seed=1)], ids=["nobody", "too few"])
    def test_without_tuning_patients_there_is_no_recalibration(self, tune):
        found = assessed(draw(100), tune)
        assert found.recalibrated == ()
        assert found.not_recalibrated == "fewer than 5 tuning patients with the event, or without it"

    @pytest.mark.parametrize(
        "test",
        [NOBODY, Scored(np.array([0.4]), np.array([1.0])), Scored(np.full(30, 0.2), np.zeros(30)), draw(3, seed=9)],
        ids=["nobody", "one patient", "one class", "three"],
    )
    def test_of_hardly_anybody_says_what_can_be_said(self, test):
        found = assessed(test, draw(100), modalities={"doppler": test.labels > 2}, subgroups={"age": {"all": test.labels > -1}})
        assert all(np.isfinite(estimate.value) for estimate in found.metrics.values())
        assert found.calibration_curve == ()

    def test_is_admitted_by_the_center_and_a_forged_one_is_not(self):
        from dataclasses import replace

        from shared_model.errors import RefusedError

        test = draw(200)
        sex = {"female": test.scores > 0.2, "male": test.scores <= 0.2}
        found = assessed(test, draw(100, seed=1), subgroups={"sex": sex}, modalities={"doppler": test.scores > 0.3})
        settings_ = {"protocol": PROTOCOL, "patients": 200, "positives": test.events}
        admit_assessment(found, **settings_)
        group, level, chosen = found.groups[0], found.metrics["auc"], found.thresholds[0]
        for forged in (
            replace(found, metrics={**found.metrics, "surprise": level}),
            replace(found, metrics={"auc": replace(level, value=1.5)}),
            replace(found, metrics={"auc": replace(level, low=0.99, high=0.2)}),
            replace(found, groups=(replace(group, variable="other"),)),
            replace(found, groups=(replace(group, patients=900),)),
            replace(found, groups=(replace(group, level="x" * 500),)),
            replace(found, modalities=(group,)),
            replace(found, thresholds=(replace(chosen, counts=replace(chosen.counts, true_positive=0)),)),
            replace(found, calibration_curve=(replace(found.calibration_curve[0], patients=10**6),)),
            replace(found, calibration_curve=(replace(found.calibration_curve[0], observed=1.2),)),
            replace(found, recalibrated=(replace(found.recalibrated[0], kind="isotonic"),)),
        ):
            with pytest.raises(RefusedError):
                admit_assessment(forged, **settings_)


class TestSmallCells:
    def test_no_count_is_small(self):
        test = draw(60, seed=4)
        levels = {"few": np.arange(60) < 7, "some": (np.arange(60) >= 7) & (np.arange(60) < 35), "rest": np.arange(60) >= 35}
        found = {group.level: group for group in assessed(test, NOBODY, subgroups={"age": levels}).groups}
        assert found["few"].patients is found["few"].events is None
        assert found["few"].metrics == {}
        assert "fewer than 5" in found["few"].suppressed
        assert sum(group.suppressed is not None for group in found.values()) >= 2  # else "few" would follow by subtraction
        assert all(point.patients >= 5 for point in assessed(test, NOBODY).calibration_curve)

    @given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1))
    def test_none_follows_by_subtraction(self, outcomes):
        counts = {level: (without + events, events) for level, (without, events) in outcomes.items() if without + events}
        hidden = suppressed_levels(counts, minimum_cell=5)
        for level, (patients, events) in counts.items():
            small = 0 < events < 5 or 0 < patients - events < 5
            assert not small or level in hidden
        if hidden and len(counts) > 1:
            assert len(hidden) >= 2

    def test_a_modality_that_everybody_has_divides_nothing(self):
        found = assessed(draw(80), NOBODY, modalities={"clinical": np.full(80, True), "doppler": np.arange(80) < 40})
        assert {group.variable for group in found.modalities} == {"doppler"}


def test_levels_share_out_all_patients():
    n = 9
    tensors = CohortTensors(
        images=torch.zeros((0, 1, 64, 64), dtype=torch.uint8),
        slots=torch.full((n, 2), -1),
        views=torch.tensor([[-1, -1]] * 4 + [[0, 1]] * 5),
        numeric=torch.tensor([[44.9, np.log(10.0)], [45.0, 0.0], [59.9, 0.0], [60.0, 0.0], *[[70.0, 0.0]] * 5]),
        numeric_present=torch.tensor([[True, True]] * 8 + [[False, False]]),
        categorical=torch.tensor([[0, -1, -1]] * 3 + [[1, -1, -1]] * 6),
        label=torch.zeros(n),
    )
    found = groups.subgroups(tensors, torch.arange(n), PROTOCOL)
    assert {level: int(mask.sum()) for level, mask in found["age"].items()} == {
        "below 45": 1, "45 to below 60": 2, "60 and above": 5, "not recorded": 1,
    }  # fmt: skip
    assert {level: int(mask.sum()) for level, mask in found["sex"].items()} == {"female": 3, "male": 6}
    assert {name: int(mask.sum()) for name, mask in groups.modalities(tensors, PROTOCOL).items()} == {
        "bmode": 5, "doppler": 5, "clinical": 9, "genomic": 0,
    }  # fmt: skip
