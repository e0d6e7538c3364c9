"""Log odds and probabilities, and the normal quantile of a 95 % interval."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared_model.counts import PROBABILITY_FLOOR
from shared_model.record import Estimate

Floats = NDArray[np.float64]
Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Bounded:
    """An estimate from a histogram and how far, at most, it is from that of the raw scores; its interval is widened by that.

    ``bound`` is ``None`` where none is known.
    """

    estimate: Estimate
    bound: float | None

    @classmethod
    def of(cls, inner: Estimate, bound: float, method: str, *, lowest: float = -np.inf, highest: float = np.inf) -> Self:
        """``inner``, the estimate on the bins, widened on both sides and kept within what is possible."""
        low = None if inner.low is None else max(lowest, inner.low - bound)
        high = None if inner.high is None else min(highest, inner.high + bound)
        return cls(Estimate(inner.value, low, high, method), bound)


def logit(probability: Floats) -> Floats:
    """Log odds, of probabilities held ``PROBABILITY_FLOOR`` away from 0 and 1."""
    held = np.clip(probability, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    return np.asarray(np.log(held) - np.log1p(-held), dtype=np.float64)


def expit(log_odds: Floats) -> Floats:
    """Probability of log odds."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * log_odds)), dtype=np.float64)
