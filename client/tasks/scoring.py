"""From a model's scores on one group of patients to what the site may say about them."""

import numpy as np
from numpy.typing import NDArray

from shared_model import metrics
from shared_model.errors import FailureCode, RefusedError
from shared_model.protocol_evaluation import Evaluation
from shared_model.summaries import Performance, ScoreHistogram, ScoreSums, ThresholdCounts


def performance(scores: NDArray[np.float64], labels: NDArray[np.float64], *, evaluation: Evaluation) -> Performance:
    """How ``scores``, probabilities float64 ``[n]``, fit ``labels`` ``[n]`` of 0 and 1; ``n`` may be 0.

    Raises:
        RefusedError: ``NOT_FINITE`` where a score is no probability, as of a model that has diverged.
    """
    unusable = int(np.sum(~((scores >= 0.0) & (scores <= 1.0))))
    if unusable:
        raise RefusedError(
            FailureCode.NOT_FINITE, f"the model's scores of {unusable} of {scores.size} patients are not in 0..1"
        )
    return Performance(
        histogram=ScoreHistogram.of(scores, labels, bins=evaluation.histogram_bins),
        sums=ScoreSums.of(scores, labels),
        thresholds=tuple(ThresholdCounts.of(scores, labels, threshold=threshold) for threshold in evaluation.thresholds),
        auc=metrics.auc_interval(scores, labels),
    )
