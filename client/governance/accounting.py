"""From what was done to a patient to the epsilon that it cost, and back to the noise that a budget asks for.

The mechanism is the Gaussian one on a Poisson sample, step after step; Opacus composes steps of any noise and sampling rate.
Neighbours are training sets of which one has an empty record in the place of a patient (Kairouz et al. 2021), so that the
number of training patients is no secret. Every epsilon is an upper bound.
"""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from opacus.accountants import PRVAccountant, RDPAccountant

from client.training.private import Mechanism
from shared_model.protocol_privacy import AccountantName

# Beyond this noise an update holds next to nothing of the patients: what is left of a budget is too little to use.
LARGEST_NOISE = 100.0
_ORDERS = [*RDPAccountant.DEFAULT_ALPHAS, 64, 128, 256, 512, 1024]
_CLOSE_ENOUGH = 1.002  # noise multipliers are found to this factor


def epsilon(history: Iterable[Mechanism], *, delta: float, accountant: AccountantName) -> float:
    """What all of ``history`` together costs a patient at ``delta``; 0 for nothing."""
    steps: Counter[tuple[float, float]] = Counter()
    for mechanism in history:
        steps[mechanism.noise_multiplier, mechanism.sampling_rate] += mechanism.steps
    composed = [(noise, rate, count) for (noise, rate), count in steps.items() if count]
    if not composed:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a rate of 1, and of orders that could be larger: the bound holds
        if accountant == "prv":
            try:
                numerical = PRVAccountant()
                numerical.history = composed
                return float(numerical.get_epsilon(delta))
            except (RuntimeError, ValueError, MemoryError):
                pass  # its grid does not suit so little noise or so small a delta; Renyi's bound always can be had
        renyi = RDPAccountant()
        renyi.history = composed
        return float(renyi.get_epsilon(delta, alphas=_ORDERS))


def least_noise(
    history: Iterable[Mechanism],
    planned: Mechanism,
    *,
    target: float,
    limit: float,
    delta: float,
    accountant: AccountantName,
) -> float | None:
    """The least noise multiplier with which ``planned`` alone costs at most ``target``, and with ``history`` at most ``limit``.

    The noise multiplier that ``planned`` holds does not count. None if none up to ``LARGEST_NOISE`` will do.
    """
    spent = list(history)

    def affordable(noise: float) -> bool:
        mechanism = replace(planned, noise_multiplier=noise)
        if epsilon([mechanism], delta=delta, accountant=accountant) > target:
            return False
        return not spent or epsilon([*spent, mechanism], delta=delta, accountant=accountant) <= limit

    target = min(target, limit)
    if not affordable(LARGEST_NOISE):
        return None
    enough, too_little = LARGEST_NOISE, 0.0
    probe = 1.0
    while enough / max(too_little, 1e-3) > _CLOSE_ENOUGH:
        if affordable(probe):
            enough = probe
        else:
            too_little = probe
        probe = (enough * too_little) ** 0.5 if too_little else enough / 2.0
    return enough
