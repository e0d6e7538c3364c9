"""Gaussian noise on a summary, for a patient's differential privacy.

The unit is one patient added or removed. What is told then is the shares of modalities and the sizes of variables'
contributions alone, so that the noise need hide little: a patient changes their flat vector by ``SENSITIVITY`` at most
(Euclidean). The noise comes from the operating system's
generator, which no seed of a study touches; it is floating-point noise, whose low bits are not protected.
"""

import math
import secrets
from collections.abc import Mapping

import numpy as np
from scipy.special import log_ndtr

from shared_model.explanations import ExplanationSummary

TOLD = ("modalities.share", "variables.size")
SENSITIVITY = math.sqrt(2.0 * len(TOLD))  # of each, a count of 1 and a vector of absolute sum 1


def told(name: str) -> bool:
    """Whether a cell is told under differential privacy."""
    return name in TOLD


def with_noise(summary: ExplanationSummary, lengths: Mapping[str, int], *, epsilon: float, delta: float) -> ExplanationSummary:
    """``summary`` reduced to what is told, with noise on every number of every cell that there may be: which ones are empty is
    not told either."""
    kept = {name: length for name, length in lengths.items() if told(name)}
    flat = summary.flatten(kept)
    generator = np.random.default_rng(secrets.randbits(256))
    noisy = flat + generator.normal(0.0, SENSITIVITY * noise_multiplier(epsilon, delta), flat.shape)
    return ExplanationSummary.unflatten(noisy, kept)


def noise_multiplier(epsilon: float, delta: float) -> float:
    """Standard deviation for sensitivity 1 of the analytic Gaussian mechanism (Balle and Wang 2018), by bisection."""
    low, high = 1e-3, 1e6
    while high / low > 1.0 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gaussian_delta(middle, epsilon) > delta else (low, middle)
    return high


def gaussian_delta(sigma: float, epsilon: float) -> float:
    """The smallest delta at which noise of ``sigma`` at sensitivity 1 is (``epsilon``, delta)-private."""
    above, below = 0.5 / sigma - epsilon * sigma, -0.5 / sigma - epsilon * sigma
    return float(np.exp(log_ndtr(above)) - np.exp(epsilon + log_ndtr(below)))
