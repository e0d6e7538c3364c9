"""Random-effects meta-analysis of the sites' own estimates: how a measure differs between hospitals, honestly with few of them.

REML for the variance between sites, Hartung and Knapp's interval for the mean, Higgins' prediction interval for a new
hospital; and, where there is one, an empirical prior for the variance, which three to five sites cannot tell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
Z = float(stats.norm.ppf(0.975))
_GRID = 80


@dataclass(frozen=True)
class Pooled:
    """Result on the scale of the estimates; ``None`` prediction bounds with fewer than three sites.

    ``weights`` add up to one. ``i2`` is in 0..1, after Higgins and Thompson, from the typical variance within sites.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    tau2: float
    i2: float
    prediction_low: float | None
    prediction_high: float | None
    weights: Floats


@dataclass(frozen=True)
class TauPrior:
    """A normal prior, cut at zero, for the standard deviation between sites, and where it is from."""

    mean: float
    standard_deviation: float
    source: str


# Of 469 prediction models with several external validations, on the scale of the AUC itself.
AUC_PRIOR = TauPrior(0.055, 0.015, "van Leeuwen et al. 2025, Stat Med, e70011")


def reml(estimates: Floats, variances: Floats) -> float:
    """Between-site variance by restricted maximum likelihood, 0 or more; of ``estimates`` and ``variances`` ``[k]``, k >= 2.

    With few sites of very unequal precision the likelihood may have two maxima, and scoring steps may go to and fro between
    them without end. So it is looked at over the whole range first, and then climbed from the highest place seen.
    """
    widest = float(np.ptp(estimates)) ** 2  # no variance between sites exceeds it
    if widest == 0.0:
        return 0.0
    seen = np.concatenate([[0.0], np.geomspace(1e-6 * widest, widest, _GRID)])
    heights = [_restricted_likelihood(tau2, estimates, variances) for tau2 in seen]
    top = int(np.argmax(heights))
    climbed = optimize.minimize_scalar(
        lambda tau2: -_restricted_likelihood(tau2, estimates, variances),
        bounds=(seen[max(top - 1, 0)], seen[min(top + 1, _GRID)]),
        method="bounded",
        options={"xatol": 1e-12 * widest, "maxiter": 500},
    )
    return float(climbed.x) if -climbed.fun > heights[top] else float(seen[top])


def _restricted_likelihood(tau2: float, estimates: Floats, variances: Floats) -> float:
    """Its logarithm, up to a constant (Viechtbauer 2005)."""
    total = variances + tau2
    weights = 1.0 / total
    scatter = np.sum(weights * (estimates - np.average(estimates, weights=weights)) ** 2)
    return float(-0.5 * (np.sum(np.log(total)) + np.log(weights.sum()) + scatter))


def dersimonian_laird(estimates: Floats, variances: Floats) -> float:
    """Between-site variance by DerSimonian and Laird's moments, 0 or more; ``[k]`` each, k >= 2."""
    weights = 1.0 / variances
    q = float(np.sum(weights * (estimates - np.average(estimates, weights=weights)) ** 2))
    return max(0.0, (q - (estimates.size - 1)) / float(weights.sum() - np.sum(weights**2) / weights.sum()))


def random_effects(
    estimates: Floats,
    variances: Floats,
    *,
    between: Callable[[Floats, Floats], float] = reml,
    hartung_knapp: bool = True,
    never_narrower: bool = True,
) -> Pooled:
    """Mean and spread of ``estimates`` ``[k]`` with ``variances`` ``[k]`` > 0; k >= 2.

    With ``never_narrower`` Hartung and Knapp's standard error is at least the usual one (Jackson et al. 2017): with few sites
    that happen to agree it would otherwise claim too much. Without ``hartung_knapp`` intervals are of the normal distribution.
    """
    k = estimates.size
    tau2 = between(estimates, variances)
    weights = 1.0 / (variances + tau2)
    mean = float(np.average(estimates, weights=weights))
    squared = 1.0 / float(weights.sum())
    quantile, of_prediction = Z, Z
    if hartung_knapp:
        scale = float(np.sum(weights * (estimates - mean) ** 2)) / (k - 1)
        squared *= max(scale, 1.0) if never_narrower else scale
        quantile = float(stats.t.ppf(0.975, k - 1))
        of_prediction = float(stats.t.ppf(0.975, k - 2)) if k > 2 else np.nan
    error, spread = np.sqrt(squared), of_prediction * np.sqrt(tau2 + squared)
    fixed = 1.0 / variances
    typical = (k - 1) * fixed.sum() / (fixed.sum() ** 2 - np.sum(fixed**2))
    foreseeable = k > 2
    return Pooled(
        mean=mean,
        standard_error=float(error),
        low=float(mean - quantile * error),
        high=float(mean + quantile * error),
        tau2=tau2,
        i2=float(tau2 / (tau2 + typical)),
        prediction_low=float(mean - spread) if foreseeable else None,
        prediction_high=float(mean + spread) if foreseeable else None,
        weights=weights / weights.sum(),
    )


@dataclass(frozen=True)
class WithPrior:
    """Posterior means and 95 % intervals of the mean over sites, of tau, and of a new site's value."""

    mean: float
    low: float
    high: float
    tau: float
    tau_low: float
    tau_high: float
    prediction_low: float
    prediction_high: float


def with_prior(estimates: Floats, variances: Floats, prior: TauPrior) -> WithPrior:
    """Bayesian random effects, flat in the mean and ``prior`` in tau, by integration over a grid of tau; k >= 1."""
    grid = np.linspace(1e-4, prior.mean + 8.0 * prior.standard_deviation + 4.0 * float(np.ptp(estimates)), 2000)
    total = variances + grid[:, None] ** 2  # [grid, k]
    weights = 1.0 / total
    means = np.sum(weights * estimates, axis=1) / weights.sum(axis=1)
    squared = 1.0 / weights.sum(axis=1)
    likelihood = -0.5 * (
        np.sum(np.log(total), axis=1) - np.log(squared) + np.sum(weights * (estimates - means[:, None]) ** 2, axis=1)
    )
    density = likelihood - 0.5 * ((grid - prior.mean) / prior.standard_deviation) ** 2
    share = np.exp(density - density.max())
    share /= share.sum()
    cumulative = np.cumsum(share)
    low, high = (_mixture_quantile(share, means, np.sqrt(squared), q) for q in (0.025, 0.975))
    new = np.sqrt(squared + grid**2)
    prediction = [_mixture_quantile(share, means, new, q) for q in (0.025, 0.975)]
    return WithPrior(
        mean=float(share @ means),
        low=low,
        high=high,
        tau=float(share @ grid),
        tau_low=float(grid[np.searchsorted(cumulative, 0.025)]),
        tau_high=float(grid[np.searchsorted(cumulative, 0.975)]),
        prediction_low=prediction[0],
        prediction_high=prediction[1],
    )


def _mixture_quantile(share: Floats, means: Floats, deviations: Floats, quantile: float) -> float:
    low, high = float(np.min(means - 10.0 * deviations)), float(np.max(means + 10.0 * deviations))
    for _ in range(80):
        middle = 0.5 * (low + high)
        below = float(share @ stats.norm.cdf((middle - means) / deviations))
        low, high = (middle, high) if below < quantile else (low, middle)
    return 0.5 * (low + high)


@dataclass(frozen=True)
class Rank:
    """Where a site stands among all, 1 the best: expected rank, 95 % interval, and how probable it is that it is the best."""

    expected: float
    low: int
    high: int
    probability_best: float


def ranks(estimates: Floats, variances: Floats, *, draws: int = 20_000, seed: int = 0) -> list[Rank]:
    """Ranks of ``estimates`` ``[k]``, larger is better, by Monte Carlo over their uncertainty."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(estimates, np.sqrt(variances), size=(draws, estimates.size))
    places = 1 + np.argsort(np.argsort(-drawn, axis=1), axis=1)  # [draws, k]
    low, high = np.quantile(places, [0.025, 0.975], axis=0, method="nearest")
    return [
        Rank(float(places[:, site].mean()), int(low[site]), int(high[site]), float(np.mean(places[:, site] == 1)))
        for site in range(estimates.size)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number after Holm 1979."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for step, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[place]))
        adjusted[place] = largest
    return [float(p) for p in adjusted]
