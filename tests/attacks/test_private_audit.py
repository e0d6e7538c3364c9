"""An audit of differential privacy in one run (Steinke, Nasr and Jagielski 2023): many canaries, each in or out by a coin. Who
guesses the coins better than epsilon allows has found a bug; the planted ones must be found.

A canary's gradient points along a weight of its own. The center sees the update, and guesses "in" for the canaries whose
weights moved most, "out" for those whose moved least.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy.stats import binom

from client.cohort import CohortTensors
from client.training import patient_gradients
from client.training.entropy import fresh_generator
from client.training.private import train_privately
from client.training.rules import plain
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from shared_model.protocol_privacy import DifferentialPrivacy
from shared_model.summaries import Normalization

pytestmark = pytest.mark.attacks
CANARIES, NOISE, DELTA, LR = 1000, 1.0, 1e-5, 1.0
DP = DifferentialPrivacy(epsilon=8.0, clipping="flat", clip_norm=1.0)
IMAGES = 8  # of a patient, where the image is taken for the unit
STUDY = StudyProtocol.model_validate_json(
    StudyProtocol.model_validate(
        {
            "study": {"name": "s", "title": "t", "outcome": "o"},
            "variables": {f"v{k}": {"kind": "numeric"} for k in range(CANARIES)},
            "network": {"kind": "logistic"},
            "training": {"steps": 1, "batch_size": 4096, "optimizer": "sgd", "lr": LR},
            "federation": {"rounds": 1},
        },
        strict=False,
    ).model_dump_json()
)


def canaries(included: np.ndarray, *, copies: int = 1, value: float = 100.0) -> CohortTensors:
    """One patient a canary that is in: nothing but a large ``value`` of the canary's own variable."""
    places = np.repeat(np.flatnonzero(included), copies)
    numeric = torch.zeros(len(places), CANARIES)
    numeric[torch.arange(len(places)), torch.from_numpy(places)] = value
    none = torch.zeros(len(places), 0, dtype=torch.int64)
    return CohortTensors(
        images=torch.zeros(0, 1, 16, 16, dtype=torch.uint8),
        slots=none,
        views=none,
        numeric=numeric,
        numeric_present=torch.ones_like(numeric, dtype=torch.bool),
        categorical=none,
        label=torch.ones(len(places)),
    )


Noisy = Callable[[], torch.Generator]


def noisy_sum(data: CohortTensors, *, noise: float, generator: torch.Generator) -> np.ndarray:
    """What one private step tells: the sum of clipped gradients with noise, downhill, ``[CANARIES]``."""
    scale = Normalization(mean=(0.0,) * CANARIES, scale=(1.0,) * CANARIES, frequency=())
    network = build_network(STUDY, normalization=scale, seed=0)
    spec = ParameterSpec.of(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    train_privately(
        network,
        data,
        torch.arange(len(data)),
        training=STUDY.training,
        dp=DP,
        noise_multiplier=noise,
        parameters=spec.parameters(network),
        correction=plain,
        round_=1,
        rounds=1,
        generator=generator,
    )
    return spec.to_vector(network)[:CANARIES].astype(np.float64) * len(data) / LR


def lower_bound(scores: np.ndarray, included: np.ndarray) -> float:
    """Epsilon that is refuted with 95 % confidence, the largest over several numbers of guesses (Bonferroni)."""
    order = np.argsort(scores)
    tried = [CANARIES // 12, CANARIES // 6, CANARIES // 4, 9 * CANARIES // 20]
    bounds = []
    for half in tried:
        right = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
        bounds.append(_refuted(right, 2 * half, level=0.05 / len(tried)))
    return max(bounds)


def _refuted(right: int, guesses: int, *, level: float) -> float:
    """Under epsilon, the number of right guesses of coins is dominated by a binomial of p = e^eps / (1 + e^eps)."""
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        p = 1.0 / (1.0 + math.exp(-middle))
        low, high = (middle, high) if binom.sf(right - 1, guesses, p) < level else (low, middle)
    return low


def claimed() -> float:
    accountant = RdpAccountant()
    accountant.compose(GaussianDpEvent(NOISE))
    return float(accountant.get_epsilon(DELTA))


def audit(*, noise: float = NOISE, make: Noisy = fresh_generator, copies: int = 1, twice: bool = False) -> float:
    included = np.random.default_rng(0).random(CANARIES) < 0.5
    told = noisy_sum(canaries(included, copies=copies), noise=noise, generator=make())
    if twice:  # a round of as many patients who are no canaries, to be subtracted
        told = told - noisy_sum(canaries(included, value=0.0), noise=noise, generator=make())
    return lower_bound(told, included)


def test_the_audit_does_not_refute_what_is_claimed() -> None:
    assert 0.5 < audit() <= claimed(), "and it is no blind audit"


def test_two_rounds_do_not_cancel_their_noise() -> None:
    assert audit(twice=True) <= claimed()


def test_a_mechanism_without_noise_is_caught() -> None:
    assert audit(noise=0.0) > claimed()


def test_a_mechanism_without_clipping_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(gradients: list[torch.Tensor], _: DifferentialPrivacy) -> list[torch.Tensor]:
        return [gradient.sum(dim=0) for gradient in gradients]

    monkeypatch.setattr(patient_gradients, "clipped_sums", unclipped)
    assert audit() > claimed()


def test_noise_from_a_seed_that_is_used_again_is_caught() -> None:
    assert audit(make=lambda: torch.Generator().manual_seed(1), twice=True) > claimed()


def test_an_image_for_the_unit_is_caught() -> None:
    assert audit(copies=IMAGES) > claimed()
