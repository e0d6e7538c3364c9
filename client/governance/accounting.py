"""From what was done to a patient to the epsilon that it cost, and back to the noise that a budget asks for.

The mechanism is the Gaussian one on a Poisson sample, step after step; Opacus composes steps of any noise and sampling rate.
Neighbours are training sets of which one has an empty record in the place of a patient (Kairouz et al. 2021), so that the
number of training patients is no secret. Every epsilon is an upper bound.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from opacus.accountants import PRVAccountant, RDPAccountant

from client.training.private import Mechanism
from shared_model.protocol_privacy import AccountantName

# Beyond this noise an update holds next to nothing of the patients: what is left of a budget is too little to use.
LARGEST_NOISE = 30.0
_ORDERS = [*RDPAccountant.DEFAULT_ALPHAS, 64, 128, 256, 512, 1024]
_CLOSE_ENOUGH = 1.003  # noise multipliers are found to this factor
_NARROWER = 0.8  # the numerical bound asks for at least this share of the noise that Renyi's bound asks for


def epsilon(history: Iterable[Mechanism], *, delta: float, accountant: AccountantName) -> float:
    """What all of ``history`` together costs a patient at ``delta``; 0 for nothing."""
    steps: Counter[tuple[float, float]] = Counter()
    for mechanism in history:
        steps[mechanism.noise_multiplier, mechanism.sampling_rate] += mechanism.steps
    composed = tuple(sorted((noise, rate, count) for (noise, rate), count in steps.items() if count))
    return _composed(composed, delta, accountant) if composed else 0.0


def least_noise(
    history: Iterable[Mechanism], planned: Mechanism, *, target: float, limit: float, delta: float, accountant: AccountantName
) -> float | None:
    """The least noise multiplier with which ``planned`` alone costs at most ``target``, and with ``history`` at most ``limit``.

    The noise multiplier that ``planned`` holds does not count. None if none up to ``LARGEST_NOISE`` will do.
    """
    spent = list(history)

    def affordable(noise: float, by: AccountantName = accountant) -> bool:
        mechanism = replace(planned, noise_multiplier=noise)
        if epsilon([mechanism], delta=delta, accountant=by) > min(target, limit):
            return False
        return not spent or epsilon([*spent, mechanism], delta=delta, accountant=by) <= limit

    if not affordable(LARGEST_NOISE):
        return None
    enough = LARGEST_NOISE
    if affordable(LARGEST_NOISE, "rdp"):
        enough = _least(lambda noise: affordable(noise, "rdp"), enough=LARGEST_NOISE, too_little=0.0)
    if accountant == "rdp":
        return enough
    if not affordable(enough):
        return _least(affordable, enough=LARGEST_NOISE, too_little=enough)
    too_little = _NARROWER * enough
    return _least(affordable, enough=enough, too_little=0.0 if affordable(too_little) else too_little)


def _least(affordable: Callable[[float], bool], *, enough: float, too_little: float) -> float:
    while not too_little:
        if affordable(enough / 2.0):
            enough /= 2.0
        else:
            too_little = enough / 2.0
    while enough / too_little > _CLOSE_ENOUGH:
        probe = (enough * too_little) ** 0.5
        if affordable(probe):
            enough = probe
        else:
            too_little = probe
    return enough


@lru_cache(maxsize=1024)
def _composed(history: tuple[tuple[float, float, int], ...], delta: float, accountant: AccountantName) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a rate of 1, and of orders that could be larger: the bound holds
        if accountant == "prv":
            try:
                numerical = PRVAccountant()
                numerical.history = list(history)
                return float(numerical.get_epsilon(delta))
            except (RuntimeError, ValueError, MemoryError):
                pass  # its grid does not suit so little noise or so small a delta; Renyi's bound always can be had
        renyi = RDPAccountant()
        renyi.history = list(history)
        return float(renyi.get_epsilon(delta, alphas=_ORDERS))
