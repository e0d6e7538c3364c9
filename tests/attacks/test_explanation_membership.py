"""Was a patient among those whose explanations were summed? An attacker who knows everybody else, and the patient's own
contributions, tells it from the noisy summary no better than differential privacy allows."""

import math

import numpy as np
import pytest

from client.explaining import noise
from client.explaining.noise import SENSITIVITY, noise_multiplier, with_noise
from shared_model.explanations import Cell, ExplanationSummary

pytestmark = pytest.mark.attacks

LENGTHS = {"modalities.share": 4, "variables.size": 12}
EPSILON, DELTA, TRIALS = 1.0, 1e-5, 3000
MARGIN = 4.0 * math.sqrt(0.5 / TRIALS)  # four standard errors of a difference of two shares


def cohort(*, with_target: bool) -> ExplanationSummary:
    """80 patients and, perhaps, the one who is easiest to find: all weight on one modality and one variable."""
    rng = np.random.default_rng(0)
    shares, sizes = rng.dirichlet(np.ones(4), 80).sum(axis=0), 0.8 * rng.dirichlet(np.ones(12), 80).sum(axis=0)
    count = 80.0
    if with_target:
        shares, sizes, count = shares + np.eye(4)[0], sizes + np.eye(12)[0], 81.0
    return ExplanationSummary({"modalities.share": Cell(count, tuple(shares)), "variables.size": Cell(count, tuple(sizes))})


def advantage() -> float:
    """True less false positive rate of the best test there is against Gaussian noise: the projection on the difference."""
    inside, outside = (cohort(with_target=member) for member in (True, False))
    way = inside.flatten(LENGTHS) - outside.flatten(LENGTHS)
    middle = 0.5 * (inside.flatten(LENGTHS) + outside.flatten(LENGTHS)) @ way

    def called(summary: ExplanationSummary) -> float:
        noisy = (with_noise(summary, LENGTHS, epsilon=EPSILON, delta=DELTA) for _ in range(TRIALS))
        return float(np.mean([found.flatten(LENGTHS) @ way > middle for found in noisy]))

    return called(inside) - called(outside)


def test_the_target_is_as_far_out_as_any_patient_can_be() -> None:
    difference = cohort(with_target=True).flatten(LENGTHS) - cohort(with_target=False).flatten(LENGTHS)
    assert np.linalg.norm(difference) == pytest.approx(SENSITIVITY)


def test_membership_shows_no_more_than_epsilon_and_delta_allow() -> None:
    bound = (math.exp(EPSILON) - 1.0 + 2.0 * DELTA) / (math.exp(EPSILON) + 1.0)
    expected = math.erf(0.5 / noise_multiplier(EPSILON, DELTA) / math.sqrt(2.0))  # of two normals one sensitivity apart
    found = advantage()
    assert found <= bound + MARGIN
    assert found == pytest.approx(expected, abs=MARGIN)


def test_noise_that_is_too_small_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "SENSITIVITY", SENSITIVITY / 20.0)
    bound = (math.exp(EPSILON) - 1.0 + 2.0 * DELTA) / (math.exp(EPSILON) + 1.0)
    assert advantage() > bound + MARGIN
