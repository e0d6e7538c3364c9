"""The scores of test patients that a site keeps for itself, so that models can be compared patient by patient later on.

One file for each model that was evaluated, in the folder of the run: it never leaves the site.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from shared_model.durable import write_durably
from shared_model.errors import FailureCode, RefusedError

Floats = NDArray[np.float64]
PATIENTS, COMMON, OWN = "patients", "common", "own"


def keep_scores(directory: Path, model: int, *, patients: NDArray[np.int64], common: Floats, own: Floats | None = None) -> None:
    """Store the probabilities ``common`` that model ``model`` gave to ``patients`` (places in the cohort), ``[n]`` each, and
    those of the site's own model."""
    vectors = {PATIENTS: patients, COMMON: common} | ({} if own is None else {OWN: own})
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(_path(directory, model), save({name: np.ascontiguousarray(vector) for name, vector in vectors.items()}))


def kept_scores(directory: Path, model: int, *, own: bool) -> tuple[NDArray[np.int64], Floats]:
    """Patients and scores as they were kept.

    Raises:
        RefusedError: nothing was kept of this model.
    """
    try:
        vectors = load_file(_path(directory, model))
        return vectors[PATIENTS], vectors[OWN if own else COMMON]
    except (OSError, SafetensorError, KeyError):
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, f"no scores are kept of model {model} in {directory.name}") from None


def _path(directory: Path, model: int) -> Path:
    return directory / f"scores-{model:04d}.safetensors"
