"""A smoothed calibration curve and what follows from it: ICI, E50, E90 (Austin and Steyerberg 2019).

The smoother is loess as the field uses it for this: local lines over three quarters of the patients, without robustness steps.
"""

from dataclasses import dataclass

import numpy as np

from shared_model.metrics.scale import Floats

SPAN = 0.75
FEWEST = 10  # patients below which a smoothed curve would be noise


@dataclass(frozen=True)
class Smoothed:
    """``observed``, the smoothed share of events, at each patient's ``predicted`` probability, ascending; each ``[n]``."""

    predicted: Floats
    observed: Floats

    @property
    def errors(self) -> tuple[float, float, float]:
        """ICI, E50 and E90: mean, median and 90th percentile of |observed - predicted| over patients."""
        distance = np.abs(self.observed - self.predicted)
        return float(distance.mean()), float(np.median(distance)), float(np.quantile(distance, 0.9))


def smoothed(scores: Floats, labels: Floats) -> Smoothed | None:
    """Smoothed calibration of ``scores``, or ``None`` where there is no curve: few patients, one class, scores all alike.

    Beyond 1,000 patients, lines are fitted at points a hundredth of the range apart and joined, as loess usually does.
    """
    from statsmodels.nonparametric.smoothers_lowess import lowess  # slow to import, and not every command smooths

    order = np.argsort(scores, kind="stable")
    predicted, outcome = scores[order], labels[order]
    alike = scores.size >= FEWEST and _widest(predicted) < 1e-6
    if scores.size < FEWEST or alike or not 0.0 < labels.mean() < 1.0:
        return None
    delta = 0.01 * float(np.ptp(predicted)) if scores.size > 1000 else 0.0
    observed = lowess(outcome, predicted, frac=SPAN, it=0, delta=delta, is_sorted=True, return_sorted=False)
    if not np.isfinite(observed).all():
        return None
    return Smoothed(predicted, np.clip(observed, 0.0, 1.0))


def _widest(predicted: Floats) -> float:
    """The narrowest window of scores over which a line would have to be fitted."""
    reach = max(2, int(SPAN * predicted.size))
    return float(np.min(predicted[reach - 1 :] - predicted[: predicted.size - reach + 1]))
