"""Synthetic thyroid-cancer patients with a known risk of lateral lymph-node metastasis (LLNM).

Distributions and log odds ratios are those that pooled studies report (Shen et al., Nat Commun 2025;16:7052, and the
meta-analyses of occult LLNM), put together as a logistic model. One more risk factor, the *texture*, is in no table: only
the images show it. Distributions that no study gives are design choices; nothing drawn here supports a clinical claim.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared_model.seeds import derive

Floats = NDArray[np.float64]  # [n]

REFERENCE_SIZE_MM = 6.5
REFERENCE_AGE = 43.8
REFERENCE_AGE_SD = 12.5
CAPSULE_SCALE_MM = 2.5

POLES = {"upper": 0.27, "middle": 0.38, "lower": 0.31, "isthmus": 0.04}
CALCIFICATIONS = {"none": 0.38, "micro": 0.50, "macro": 0.12}
ECHOGENICITIES = {"isoechoic": 0.10, "hypoechoic": 0.72, "markedly_hypoechoic": 0.18}
_POLE_EFFECT = {"upper": 0.75, "middle": 0.0, "lower": -0.25, "isthmus": -0.90}


@dataclass(frozen=True)
class CaseMix:
    """Who comes to a hospital, and how risk follows.

    Attributes:
        intercept: log odds of LLNM of a patient whose every risk factor is zero; ``with_prevalence`` sets it.
        texture_effect: log odds ratio of LLNM for one standard deviation of texture; 0 makes images worthless, 1.5 to 2
            gives an oracle AUC of 0.85 to 0.90.
        central_effect, central_intercept: central-node metastasis, found at the operation: log odds ratio for LLNM, and
            its own log odds where every risk factor is zero.
        age_mean, age_sd: years. male, braf: share of patients. size_median_mm, size_log_sd: lognormal largest diameter.
    """

    intercept: float = -1.50
    texture_effect: float = 1.5
    central_effect: float = 0.0
    central_intercept: float = 0.67
    age_mean: float = REFERENCE_AGE
    age_sd: float = REFERENCE_AGE_SD
    male: float = 0.28
    size_median_mm: float = REFERENCE_SIZE_MM
    size_log_sd: float = 0.68
    braf: float = 0.83


@dataclass(frozen=True)
class Patients:
    """Patients and the truth about them.

    Attributes:
        variables: one row a patient, in the units of the demo study: ``age`` years, ``tumour_size`` and
            ``capsule_distance`` mm, ``tsh`` mIU/L, ``tg`` ng/mL; categories as text; yes-no variables as bool.
        texture: float ``[n]``, standard normal; what only the images show.
        logit, risk: float ``[n]``, true log odds and probability of LLNM.
        label: bool ``[n]``, LLNM.
    """

    variables: pd.DataFrame
    texture: Floats
    logit: Floats
    risk: Floats
    label: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.label)


def draw_patients(count: int, *, mix: CaseMix, seed: int) -> Patients:
    """Draw ``count`` patients; the same arguments give the same patients."""
    rng = np.random.default_rng(derive(seed, "patients"))
    variables = _draw_variables(count, mix, rng)
    texture = rng.standard_normal(count)
    logit = mix.intercept + _table_effects(variables) + mix.texture_effect * texture
    logit = logit + mix.central_effect * variables["central_nodes"].to_numpy()
    risk = _sigmoid(logit)
    return Patients(variables, texture, logit, risk, label=rng.random(count) < risk)


def with_prevalence(mix: CaseMix, prevalence: float) -> CaseMix:
    """``mix`` with the intercept at which a share ``prevalence`` of many patients has LLNM."""
    reference = draw_patients(20_000, mix=replace(mix, intercept=0.0), seed=0)
    low, high = -20.0, 20.0
    while high - low > 1e-6:
        middle = (low + high) / 2.0
        if _sigmoid(reference.logit + middle).mean() < prevalence:
            low = middle
        else:
            high = middle
    return replace(mix, intercept=low)


def _draw_variables(count: int, mix: CaseMix, rng: np.random.Generator) -> pd.DataFrame:
    def happens(probability: float | Floats) -> NDArray[np.bool_]:
        return rng.random(count) < probability

    def one_of(shares: dict[str, float]) -> NDArray[np.str_]:
        return rng.choice(list(shares), size=count, p=list(shares.values()))

    age = np.clip(rng.normal(mix.age_mean, mix.age_sd, count), 14.0, 85.0)
    male = happens(mix.male)
    size = mix.size_median_mm * np.exp(rng.normal(0.0, mix.size_log_sd, count))
    log_size = np.log(size / REFERENCE_SIZE_MM)
    distance = rng.gamma(1.3, 1.9, count)
    extension = happens(_sigmoid(-3.1 + 1.3 * log_size + 1.6 * _capsule_contact(distance)))
    irregular = happens(_sigmoid(0.55 + 0.25 * log_size))
    variables = pd.DataFrame(
        {
            "age": age,
            "sex": np.where(male, "male", "female"),
            "tumour_size": size,
            "multifocal": happens(_sigmoid(-0.95 + 0.25 * log_size)),
            "bilateral": happens(0.175),
            "pole": one_of(POLES),
            "capsule_distance": distance,
            "ete": np.where(extension, np.where(happens(0.2), "gross", "minimal"), "none"),
            "calcification": one_of(CALCIFICATIONS),
            "echogenicity": one_of(ECHOGENICITIES),
            "margin": np.where(irregular, "irregular", np.where(happens(0.4), "ill_defined", "smooth")),
            "taller_than_wide": happens(_sigmoid(0.45 - 0.55 * log_size)),
            "hashimoto": happens(np.where(male, 0.09, 0.25)),
            "tsh": 2.0 * np.exp(rng.normal(0.0, 0.65, count)),
            "tg": 18.0 * np.exp(rng.normal(0.0, 1.1, count)),
            "braf": happens(mix.braf),
        }
    )
    variables["central_nodes"] = happens(_sigmoid(mix.central_intercept + 0.6 * _general_risk(variables)))
    return variables


def _general_risk(v: pd.DataFrame) -> Floats:
    """The part of the log odds that central nodes share: the patient and the tumour's extent."""
    effects = (
        -0.35 * (v["age"] - REFERENCE_AGE) / REFERENCE_AGE_SD
        + 0.45 * (v["sex"] == "male")
        + 0.85 * np.log(v["tumour_size"] / REFERENCE_SIZE_MM)
        + 0.45 * v["multifocal"]
        + 0.60 * (v["ete"] != "none")
    )
    return np.asarray(effects, dtype=np.float64)


def _table_effects(v: pd.DataFrame) -> Floats:
    """The part of the log odds of LLNM that follows from what is known before the operation."""
    effects = (
        0.30 * v["bilateral"]
        + v["pole"].map(_POLE_EFFECT)
        + 1.20 * _capsule_contact(v["capsule_distance"].to_numpy())
        + 0.55 * (v["calcification"] == "micro")
        + 0.12 * (v["echogenicity"] != "isoechoic")
        + 0.25 * (v["margin"] == "irregular")
        - 0.12 * v["hashimoto"]
        + 0.12 * np.log(v["tsh"] / 2.0)
        + 0.15 * np.log(v["tg"] / 18.0)
        + 0.12 * v["braf"]
    )
    return np.asarray(_general_risk(v) + effects.to_numpy(np.float64))


def _capsule_contact(distance: Floats) -> Floats:
    """1 at the thyroid capsule, falling off with the distance in mm."""
    return np.asarray(np.exp(-distance / CAPSULE_SCALE_MM), dtype=np.float64)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float64)
