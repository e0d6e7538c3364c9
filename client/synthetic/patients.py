"""Synthetic thyroid-cancer patients with a known risk of lateral lymph-node metastasis (LLNM).

Distributions and log odds ratios are those that pooled studies report (Shen et al., Nat Commun 2025;16:7052, and the
meta-analyses of occult LLNM), put together as a logistic model. Two more risk factors are in no table: the *texture* of the
lesion, which every image shows, and its *vascularity*, which only Doppler shows. Distributions that no study gives are design
choices; nothing drawn here supports a clinical claim.
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
TIRADS = ("3", "4A", "4B", "4C", "5")  # Kwak: by the number of suspicious features of a solid lesion
IMAGE_FEATURES = ("texture", "vascularity")
_POLE_EFFECT = {"upper": 0.75, "middle": 0.0, "lower": -0.25, "isthmus": -0.90}


@dataclass(frozen=True)
class CaseMix:
    """Who comes to a hospital, and how risk follows.

    Attributes:
        intercept: log odds of LLNM of a patient whose every risk factor is zero; ``with_prevalence`` sets it.
        texture_effect: log odds ratio of LLNM for one standard deviation of texture; 0 makes images worthless, 1.5 to 2
            gives an oracle AUC of 0.85 to 0.90.
        vascularity_effect: likewise of vascularity.
        central_effect, central_intercept: central-node metastasis, found at the operation: log odds ratio for LLNM, and
            its own log odds where every risk factor is zero.
        suspicion: added to the log odds of microcalcification, irregular margin and a taller-than-wide shape; shifts TI-RADS.
        age_mean, age_sd: years. male, braf: share of patients. size_median_mm, size_log_sd: lognormal largest diameter.
    """

    intercept: float = -1.50
    texture_effect: float = 1.5
    vascularity_effect: float = 0.0
    central_effect: float = 0.0
    central_intercept: float = 0.67
    suspicion: float = 0.0
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
            ``capsule_distance`` mm, ``tsh`` mIU/L, ``tg`` ng/mL, ``calcitonin`` pg/mL; categories as text; yes-no
            variables as bool.
        texture, vascularity: float ``[n]``, standard normal; what only the images show.
        contributions: one column for each variable and image feature that bears on LLNM, and ``intercept``: the parts that
            add up to ``logit``.
        logit, risk: float ``[n]``, true log odds and probability of LLNM.
        label: bool ``[n]``, LLNM.
    """

    variables: pd.DataFrame
    texture: Floats
    vascularity: Floats
    contributions: pd.DataFrame
    logit: Floats
    risk: Floats
    label: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def table_logit(self) -> Floats:
        """The part of ``logit`` that a table can know; float ``[n]``."""
        return np.asarray(self.logit - self.contributions[list(IMAGE_FEATURES)].sum(axis=1).to_numpy(), dtype=np.float64)

    def part(self, start: int, stop: int) -> "Patients":
        """Patients ``start`` to ``stop``."""
        rows = slice(start, stop)
        return Patients(
            variables=self.variables.iloc[rows],
            texture=self.texture[rows],
            vascularity=self.vascularity[rows],
            contributions=self.contributions.iloc[rows],
            logit=self.logit[rows],
            risk=self.risk[rows],
            label=self.label[rows],
        )


def draw_patients(count: int, *, mix: CaseMix, seed: int) -> Patients:
    """Draw ``count`` patients; the same arguments give the same patients."""
    rng = np.random.default_rng(derive(seed, "patients"))
    variables = _draw_variables(count, mix, rng)
    texture, vascularity = rng.standard_normal((2, count))
    contributions = _contributions(variables).assign(
        central_nodes=mix.central_effect * variables["central_nodes"],
        texture=mix.texture_effect * texture,
        vascularity=mix.vascularity_effect * vascularity,
        intercept=mix.intercept,
    )
    logit = contributions.sum(axis=1).to_numpy()
    risk = _sigmoid(logit)
    return Patients(variables, texture, vascularity, contributions, logit, risk, label=rng.random(count) < risk)


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
    irregular = happens(_sigmoid(0.55 + 0.25 * log_size + mix.suspicion))
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
            "calcification": one_of(_tilted(CALCIFICATIONS, "micro", mix.suspicion)),
            "echogenicity": one_of(ECHOGENICITIES),
            "margin": np.where(irregular, "irregular", np.where(happens(0.4), "ill_defined", "smooth")),
            "taller_than_wide": happens(_sigmoid(0.45 - 0.55 * log_size + mix.suspicion)),
            "hashimoto": happens(np.where(male, 0.09, 0.25)),
            "tsh": 2.0 * np.exp(rng.normal(0.0, 0.65, count)),
            "tg": 18.0 * np.exp(rng.normal(0.0, 1.1, count)),
            "calcitonin": 2.0 * np.exp(rng.normal(0.0, 0.6, count)),
            "braf": happens(mix.braf),
        }
    )
    variables["tirads"] = _tirads(variables)
    variables["central_nodes"] = happens(
        _sigmoid(mix.central_intercept + 0.6 * _general_contributions(variables).sum(axis=1).to_numpy())
    )
    return variables


def _tilted(shares: dict[str, float], category: str, log_odds: float) -> dict[str, float]:
    """``shares`` with the odds of one category changed."""
    weights = {name: share * (np.exp(log_odds) if name == category else 1.0) for name, share in shares.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _tirads(v: pd.DataFrame) -> NDArray[np.str_]:
    suspicious = (
        (v["echogenicity"] != "isoechoic").astype(int)
        + (v["margin"] == "irregular")
        + (v["calcification"] == "micro")
        + v["taller_than_wide"]
    )
    return np.array(TIRADS)[suspicious]


def _contributions(v: pd.DataFrame) -> pd.DataFrame:
    """Part of the log odds of LLNM that each variable known before the operation brings."""
    return _general_contributions(v).assign(
        bilateral=0.30 * v["bilateral"],
        pole=v["pole"].map(_POLE_EFFECT),
        capsule_distance=1.20 * _capsule_contact(v["capsule_distance"].to_numpy()),
        calcification=0.55 * (v["calcification"] == "micro"),
        echogenicity=0.12 * (v["echogenicity"] != "isoechoic"),
        margin=0.25 * (v["margin"] == "irregular"),
        hashimoto=-0.12 * v["hashimoto"],
        tsh=0.12 * np.log(v["tsh"] / 2.0),
        tg=0.15 * np.log(v["tg"] / 18.0),
        braf=0.12 * v["braf"],
    )


def _general_contributions(v: pd.DataFrame) -> pd.DataFrame:
    """Those that central nodes share: the patient and the tumour's extent."""
    return pd.DataFrame(
        {
            "age": -0.35 * (v["age"] - REFERENCE_AGE) / REFERENCE_AGE_SD,
            "sex": 0.45 * (v["sex"] == "male"),
            "tumour_size": 0.85 * np.log(v["tumour_size"] / REFERENCE_SIZE_MM),
            "multifocal": 0.45 * v["multifocal"],
            "ete": 0.60 * (v["ete"] != "none"),
        }
    )


def _capsule_contact(distance: Floats) -> Floats:
    """1 at the thyroid capsule, falling off with the distance in mm."""
    return np.asarray(np.exp(-distance / CAPSULE_SCALE_MM), dtype=np.float64)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float64)
