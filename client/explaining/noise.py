"""Gaussian noise on a summary, for a patient's differential privacy.

The unit is one patient added or removed. What is told then is shares of modalities, contributions of variables and risks
alone; a patient changes ``SENSITIVITY`` at most of their flat vector (Euclidean). The noise comes from the operating system's
generator, which no seed of a study touches; it is floating-point noise, whose low bits are not protected.
"""

import math
import secrets
from collections.abc import Mapping

import numpy as np
from scipy.special import log_ndtr

from shared_model.explanations import CLASSES, ExplanationSummary

_RISKS = ("risk.position.", "risk.distance.")
# Of a patient: count and shares of modalities; count and contributions in one class; count, event and predicted risk in one
# position and one distance.
SENSITIVITY = math.sqrt((1.0 + 1.0) + (1.0 + 1.0) + 2 * 3.0)


def told(name: str) -> bool:
    """Whether a cell is told under differential privacy."""
    return name in {"modalities.share", *(f"variables.{group}" for group in CLASSES)} or name.startswith(_RISKS)


def with_noise(summary: ExplanationSummary, lengths: Mapping[str, int], *, epsilon: float, delta: float) -> ExplanationSummary:
    """``summary`` reduced to what is told, with noise on every number of every cell that there may be: which ones are empty is
    not told either."""
    kept = {name: length for name, length in lengths.items() if told(name)}
    sensitivity = SENSITIVITY if any(name.startswith(_RISKS) for name in kept) else 2.0
    flat = summary.flatten(kept)
    generator = np.random.default_rng(secrets.randbits(256))
    noisy = flat + generator.normal(0.0, sensitivity * noise_multiplier(epsilon, delta), flat.shape)
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
