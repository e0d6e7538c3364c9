"""Patients of several sites together, from what adds up."""

from collections.abc import Iterable
from functools import reduce
from typing import Literal

from shared_model.histogram import ScoreHistogram
from shared_model.metrics.discrimination import histogram_auc
from shared_model.metrics.overall import brier, log_loss
from shared_model.summaries import Performance, ScoreSums


def pool(performances: Iterable[Performance]) -> Performance:
    """The patients of several sites together. Only what adds up is pooled; a site's own exact numbers are ``None``.

    Of no site at all it is the performance of nobody, without bins or thresholds.
    """
    groups = list(performances)
    if not groups:
        return Performance(ScoreHistogram.zero(0), ScoreSums(), ())
    return Performance(
        histogram=reduce(lambda a, b: a + b, [group.histogram for group in groups]),
        sums=reduce(lambda a, b: a + b, [group.sums for group in groups]),
        thresholds=tuple(
            reduce(lambda a, b: a + b, counts) for counts in zip(*(group.thresholds for group in groups), strict=True)
        ),
    )


def selection_score(kind: Literal["auc", "log_loss", "brier"], pooled: Performance) -> float | None:
    """The number by which rounds are compared, larger is better: pooled AUC, or log loss or Brier score negated."""
    if kind == "auc":
        binned = histogram_auc(pooled.histogram)
        return None if binned is None else binned[0]
    loss = log_loss(pooled.sums) if kind == "log_loss" else brier(pooled.sums)
    return None if loss is None else -loss
