"""How sites differ: meta-analysis of each measure, differences between pairs of sites, and ranks with their uncertainty.

Everything starts from the sites' own estimates as the document states them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import special, stats

from server.results import meta_analysis
from server.results.meta_analysis import AUC_PRIOR, Floats, Pooled
from shared_model.metrics import Z

Json = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """On which scale a measure is pooled, as its sampling distribution is nearer to normal there (Snell et al. 2018)."""

    name: str
    forward: Callable[[float], float]
    back: Callable[[float], float]
    lowest: float = -np.inf
    highest: float = np.inf


PLAIN = Scale("as it is", float, float)
SCALES = {
    "auc": Scale("logit", lambda p: float(special.logit(p)), lambda x: float(special.expit(x)), 0.0, 1.0),
    "oe_ratio": Scale("logarithm", lambda r: float(np.log(r)), lambda x: float(np.exp(x)), 0.0),
    "calibration_slope": PLAIN,
    "calibration_intercept": PLAIN,
}
FEW_SITES = 5  # up to so many, the variance between sites is hardly known, and the document says so


@dataclass(frozen=True)
class _Estimates:
    """Estimates and variances on the scale of a measure, ``[k]``, of the sites ``names``; and why others are left out."""

    names: list[str]
    values: Floats
    variances: Floats
    excluded: list[Json]


def heterogeneity(sites: Mapping[str, Json]) -> Json:
    """``heterogeneity`` of the document: by metric, ``null`` with fewer than two sites."""
    return {metric: _pooled(sites, metric, scale) for metric, scale in SCALES.items()}


def site_pairs(sites: Mapping[str, Json]) -> list[Json]:
    """Difference in AUC of each pair of sites, first less second, with Newcombe's hybrid interval (MOVER), the P value on the
    logit scale, and Holm's adjustment for the number of pairs."""
    found = _estimates(sites, "auc", SCALES["auc"])
    rows, p_values = [], []
    for a, b in combinations(range(len(found.names)), 2):
        first, second = sites[found.names[a]]["metrics"]["auc"], sites[found.names[b]]["metrics"]["auc"]
        difference = first["value"] - second["value"]
        z = (found.values[a] - found.values[b]) / np.sqrt(found.variances[a] + found.variances[b])
        p_values.append(float(2.0 * stats.norm.sf(abs(z))))
        rows.append(
            {
                "first": found.names[a],
                "second": found.names[b],
                "difference": difference,
                "low": difference - float(np.hypot(first["value"] - first["low"], second["high"] - second["value"])),
                "high": difference + float(np.hypot(first["high"] - first["value"], second["value"] - second["low"])),
                "method": "Newcombe hybrid of the sites' intervals",
            }
        )
    adjusted = meta_analysis.holm(p_values)
    return [{**row, "p_value": p, "p_holm": q} for row, p, q in zip(rows, p_values, adjusted, strict=True)]


def ranking(sites: Mapping[str, Json]) -> list[Json]:
    """Sites by AUC with the uncertainty of their ranks; empty with fewer than two."""
    found = _estimates(sites, "auc", SCALES["auc"])
    if len(found.names) < 2:
        return []
    ranks = meta_analysis.ranks(found.values, found.variances)
    return [
        {
            "site": name,
            "expected_rank": rank.expected,
            "low": rank.low,
            "high": rank.high,
            "probability_best": rank.probability_best,
        }
        for name, rank in zip(found.names, ranks, strict=True)
    ]


def _estimates(sites: Mapping[str, Json], metric: str, scale: Scale) -> _Estimates:
    """A site's variance is that of its interval, taken back to the scale."""
    names, values, variances, excluded = [], [], [], []
    for name, site in sites.items():
        number = site["metrics"][metric]
        why = _why_not(site, number, metric, scale)
        if why is not None:
            excluded.append({"site": name, "why": why})
            continue
        names.append(name)
        values.append(scale.forward(number["value"]))
        variances.append(((scale.forward(number["high"]) - scale.forward(number["low"])) / (2.0 * Z)) ** 2)
    return _Estimates(names, np.array(values), np.array(variances), excluded)


def _why_not(site: Json, number: Json | None, metric: str, scale: Scale) -> str | None:
    if number is None:
        return next((item["why"] for item in site["not_estimable"] if item["metric"] == metric), "not stated by the site")
    if number["low"] is None or number["high"] is None or not number["low"] < number["high"]:
        return "no interval"
    ends = (number["low"], number["value"], number["high"])
    if not all(scale.lowest < end < scale.highest for end in ends):
        return f"the value or an end of its interval has no {scale.name}"
    return None


def _pooled(sites: Mapping[str, Json], metric: str, scale: Scale) -> Json | None:
    found = _estimates(sites, metric, scale)
    k = len(found.names)
    if k < 2:
        return None
    pooled = meta_analysis.random_effects(found.values, found.variances)
    foreseeable = pooled.prediction_low is not None and pooled.prediction_high is not None
    return {
        "k": k,
        "scale": scale.name,
        "mean": scale.back(pooled.mean),
        "low": scale.back(pooled.low),
        "high": scale.back(pooled.high),
        "tau2": pooled.tau2,
        "i2": pooled.i2,
        "prediction_low": scale.back(pooled.prediction_low) if pooled.prediction_low is not None else None,
        "prediction_high": scale.back(pooled.prediction_high) if pooled.prediction_high is not None else None,
        "method": "random effects: REML, Hartung-Knapp (not narrower than normal)"
        + (", prediction interval of Student's t with k - 2 degrees of freedom" if foreseeable else ""),
        "caution": f"with {k} sites the variance between them is hardly known" if k <= FEW_SITES else None,
        "sites": _shares(sites, metric, found, pooled),
        "excluded": found.excluded,
        "prior": _with_prior(sites, found) if metric == "auc" else None,
    }


def _shares(sites: Mapping[str, Json], metric: str, found: _Estimates, pooled: Pooled) -> Json:
    return {
        name: {**{key: sites[name]["metrics"][metric][key] for key in ("value", "low", "high")}, "weight": float(weight)}
        for name, weight in zip(found.names, pooled.weights, strict=True)
    }


def _with_prior(sites: Mapping[str, Json], found: _Estimates) -> Json:
    """The same on the scale of the AUC itself, with the empirical prior for its standard deviation between sites."""
    values = np.array([sites[name]["metrics"]["auc"]["value"] for name in found.names])
    variances = found.variances * (values * (1.0 - values)) ** 2
    posterior = meta_analysis.with_prior(values, variances, AUC_PRIOR)
    return {
        "mean": posterior.mean,
        "low": posterior.low,
        "high": min(posterior.high, 1.0),
        "tau": posterior.tau,
        "tau_low": posterior.tau_low,
        "tau_high": posterior.tau_high,
        "prediction_low": posterior.prediction_low,
        "prediction_high": min(posterior.prediction_high, 1.0),
        "tau_prior": {"mean": AUC_PRIOR.mean, "standard_deviation": AUC_PRIOR.standard_deviation},
        "source": AUC_PRIOR.source,
    }
