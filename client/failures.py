"""Failure analysis at a hospital: the test patients whom a model judged worst, by name. Nothing of this leaves the site.

Drawn from the scores that the worker kept (``client.tasks.kept_scores``) and the site's own export, so that somebody who may
see the patients can look up why: a wrong label, a picture of another lesion, an unusual course.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.cohort.load import Cohort
from client.tasks import groups
from client.tasks.kept_scores import kept_scores
from shared_model.errors import ConfigurationError, Fault
from shared_model.inputs import ABSENT, categorical_names, numeric_names
from shared_model.protocol import StudyProtocol

PATTERN = "scores-*.safetensors"


@dataclass(frozen=True)
class Failure:
    """One test patient. ``error`` is the distance of the prediction from the outcome, in 0..1; ``values`` are the patient's
    variables as the network saw them, ``None`` where missing; ``lacks`` names the modalities without any value."""

    patient: str
    outcome: int
    predicted: float
    error: float
    lacks: tuple[str, ...]
    values: dict[str, float | str | None]


def evaluated_models(directory: Path) -> list[int]:
    """Rounds after which the model was evaluated here, of the run whose folder is ``directory``, ascending."""
    return sorted(int(path.stem.removeprefix("scores-")) for path in directory.glob(PATTERN))


def worst(cohort: Cohort, protocol: StudyProtocol, directory: Path, *, model: int, count: int) -> list[Failure]:
    """The ``count`` test patients farthest from their outcome, the farthest first.

    Raises:
        ConfigurationError: the scores kept are of other patients than the cohort's.
        RefusedError: no scores were kept of ``model``.
    """
    places, scores = kept_scores(directory, model, own=False)
    if places.size and places.max() >= len(cohort):
        raise ConfigurationError(
            [
                Fault(
                    str(directory),
                    "",
                    f"scores of patients up to number {int(places.max()) + 1}",
                    f"the {len(cohort)} patients of the export",
                    "the export has changed since the run: use the one of that time",
                )
            ]
        )
    outcome = cohort.tensors.label.cpu().numpy()[places]
    error = np.abs(scores - outcome)
    lacking = {name: ~mask for name, mask in groups.modalities(cohort.tensors, protocol).items()}
    found = []
    for row in np.argsort(-error, kind="stable")[:count]:
        place = int(places[row])
        found.append(
            Failure(
                patient=cohort.patients[place],
                outcome=int(outcome[row]),
                predicted=float(scores[row]),
                error=float(error[row]),
                lacks=tuple(name for name, mask in lacking.items() if mask[place]),
                values=dict(_values(cohort, protocol, place)),
            )
        )
    return found


def as_csv(failures: list[Failure], protocol: StudyProtocol) -> str:
    """A table with a row a patient."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient", "outcome", "predicted", "error", "lacks", *protocol.variables])
    for failure in failures:
        values = ["" if value is None else value for value in failure.values.values()]
        numbers = [f"{failure.predicted:.4f}", f"{failure.error:.4f}"]
        writer.writerow([failure.patient, failure.outcome, *numbers, " ".join(failure.lacks), *values])
    return text.getvalue()


def _values(cohort: Cohort, protocol: StudyProtocol, place: int) -> Iterator[tuple[str, float | str | None]]:
    tensors, numeric, categorical = cohort.tensors, numeric_names(protocol), categorical_names(protocol)
    for name, variable in protocol.variables.items():
        if variable.kind == "numeric":
            column = numeric.index(name)
            value = float(tensors.numeric[place, column])
            shown = round(float(np.exp(value)) if variable.log else value, 6)
            yield name, shown if bool(tensors.numeric_present[place, column]) else None
        else:
            code = int(tensors.categorical[place, categorical.index(name)])
            yield name, None if code == ABSENT else variable.categories[code]
