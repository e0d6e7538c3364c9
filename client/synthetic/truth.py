"""What only the synthetic hospital's maker knows: true risks, what each variable and image feature contributed, true masks.

::

    truth/maple.parquet          one row a patient
    truth/maple/MP-0001_doppler.npz  lesion and gland in each stored picture

Nothing that a site runs reads this folder.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.synthetic.patients import Patients

_CONTRIBUTION = "contribution_"


@dataclass(frozen=True)
class Ceilings:
    """How well anyone could do on these patients: share with metastasis, AUC of the true risk, and AUC of the best score that
    sees the tables only. An AUC is None where all patients have one outcome."""

    patients: int
    prevalence: float
    oracle_auc: float | None
    table_auc: float | None


def truth_table(patients: Patients, identifiers: list[str], *, scanner: str) -> pd.DataFrame:
    """One row a patient: every variable before anything went missing; ``texture`` and ``vascularity``; the parts of the log
    odds as ``contribution_<name>``, with ``contribution_intercept``; their sum ``logit``; ``table_logit`` without the image
    features; ``risk`` and ``label``; and the ``scanner`` that drew the pictures."""
    return patients.variables.assign(
        id=identifiers,
        texture=patients.texture,
        vascularity=patients.vascularity,
        **{f"{_CONTRIBUTION}{name}": part for name, part in patients.contributions.items()},
        table_logit=patients.table_logit,
        logit=patients.logit,
        risk=patients.risk,
        label=patients.label,
        scanner=scanner,
    )


def ceilings(truth: pd.DataFrame) -> Ceilings:
    """Of the patients of a truth table."""
    label = truth["label"].to_numpy(dtype=np.bool_)
    return Ceilings(
        patients=len(truth),
        prevalence=float(label.mean()),
        oracle_auc=_auc(label, truth["risk"].to_numpy()),
        table_auc=_auc(label, truth["table_logit"].to_numpy()),
    )


def describe_truth(out: Path, hospital: str) -> str:
    """Prevalence and both ceilings of what ``synthesize`` wrote below ``out``, in words."""
    known = ceilings(pd.read_parquet(out / "truth" / f"{hospital}.parquet"))
    return (
        f"{known.patients} patients, {known.prevalence:.1%} with metastasis\n"
        f"oracle AUC (true risk): {_shown(known.oracle_auc)}\n"
        f"ceiling of tables alone: {_shown(known.table_auc)}"
    )


def write_truth(file: Path, truth: pd.DataFrame) -> None:
    """Write whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    truth.to_parquet(beside, index=False)
    beside.replace(file)


def write_masks(folder: Path, name: str, *, lesion: NDArray[np.bool_], gland: NDArray[np.bool_]) -> None:
    """Masks of one stored picture, bool ``[H, W]``, as ``lesion`` and ``gland`` of ``<name>.npz``."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", lesion=lesion, gland=gland)


def _auc(label: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, score)) if 0 < label.sum() < len(label) else None


def _shown(auc: float | None) -> str:
    return "none, all patients have one outcome" if auc is None else f"{auc:.3f}"
