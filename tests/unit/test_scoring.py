"""From scores to what a site may say of them."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from client.tasks.scoring import performance
from shared_model.errors import FailureCode, RefusedError
from shared_model.histogram import ScoreHistogram
from shared_model.protocol_evaluation import Evaluation

EVALUATION = Evaluation(thresholds=(0.2, 0.5), histogram_bins=100)


def test_everything_is_about_the_same_patients():
    rng = np.random.default_rng(0)
    labels = (rng.random(120) < 0.3).astype(float)
    scores = np.clip(rng.normal(0.35 + 0.2 * labels, 0.2), 0.0, 1.0)
    result = performance(scores, labels, evaluation=EVALUATION)
    assert result.auc.value == pytest.approx(roc_auc_score(labels, scores))
    assert sum(result.histogram.positives) == result.sums.positives == labels.sum()
    assert result.histogram.bins == 100
    assert [counts.threshold for counts in result.thresholds] == [0.2, 0.5]
    assert all(c.true_positive + c.false_negative == labels.sum() for c in result.thresholds)


def test_nobody_has_a_performance_without_estimates():
    result = performance(np.zeros(0), np.zeros(0), evaluation=EVALUATION)
    assert result.sums.count == 0
    assert result.histogram == ScoreHistogram.zero(100)
    assert len(result.thresholds) == 2
    assert result.auc is result.assessment is None


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_sums_but_no_ranking(label):
    result = performance(np.array([0.1, 0.7, 0.9]), np.full(3, label), evaluation=EVALUATION)
    assert result.sums.count == 3
    assert result.auc is None


@pytest.mark.parametrize("score", [np.nan, np.inf, -0.01, 1.01])
def test_a_score_that_is_no_probability_is_refused(score):
    with pytest.raises(RefusedError, match="1 of 3 patients") as refused:
        performance(np.array([0.5, score, 0.2]), np.array([0.0, 1.0, 1.0]), evaluation=EVALUATION)
    assert refused.value.code is FailureCode.NOT_FINITE
