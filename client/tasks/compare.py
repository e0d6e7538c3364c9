"""``compare``: several models, and what clinicians said, on the same test patients, paired patient by patient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.cohort import StudyPatients
from client.tasks.kept_scores import Floats, kept_scores
from client.tasks.scoring import performance
from shared_model import metrics
from shared_model.errors import FailureCode, RefusedError
from shared_model.messages import CompareRequest, ScoredModel
from shared_model.paired import PairedComparison, stratified_auc
from shared_model.protocol import StudyProtocol
from shared_model.readings import Reading, read
from shared_model.seeds import derive
from shared_model.summaries import Performance


@dataclass(frozen=True)
class Compared:
    """What ``CompareReply`` carries."""

    performances: dict[str, Performance]
    comparisons: dict[str, PairedComparison]
    readings: dict[str, Reading]


@dataclass(frozen=True)
class Scores:
    """One model on its test patients, in order of their place in the cohort; ``folds`` says by which fold each was scored."""

    patients: NDArray[np.int64]
    scores: Floats
    folds: NDArray[np.int64]

    def same_patients(self, other: "Scores") -> bool:
        """Whether both models scored the same patients in the same folds."""
        return np.array_equal(self.patients, other.patients) and np.array_equal(self.folds, other.folds)


def compare(
    patients: StudyPatients, request: CompareRequest, protocol: StudyProtocol, *, directory: Callable[[str], Path]
) -> Compared:
    """Do as ``request`` asks; ``directory`` gives the folder in which the scores of a run are kept.

    Raises:
        RefusedError: scores were not kept, or are of other patients than the cohort's.
    """
    models = {name: _gather(folds, len(patients.tensors), directory) for name, folds in request.models.items()}
    if request.first not in models:
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, f"{request.first!r} is none of the models to compare")
    first = models[request.first]
    outcome = patients.tensors.label.double().cpu().numpy()
    labels = outcome[first.patients]
    evaluation = protocol.evaluation
    return Compared(
        performances={
            name: _performance(model, outcome[model.patients], protocol) for name, model in models.items() if model.scores.size
        },
        comparisons={
            name: PairedComparison.of(first.scores, model.scores, labels, thresholds=evaluation.thresholds, strata=first.folds)
            for name, model in models.items()
            if name != request.first and model.same_patients(first)
        },
        readings=_readings(
            patients.ratings, first, labels, protocol, seed=derive(request.task.seed, "readings", request.task.site)
        ),
    )


def _gather(folds: tuple[ScoredModel, ...], cohort: int, directory: Callable[[str], Path]) -> Scores:
    kept = [kept_scores(directory(model.run), model.model, own=model.own) for model in folds]
    patients = np.concatenate([own for own, _ in kept]) if kept else np.zeros(0, np.int64)
    if patients.size != np.unique(patients).size or (patients.size and patients.max() >= cohort):
        raise RefusedError(FailureCode.COHORT_UNUSABLE, "the scores kept are of other patients than the cohort's")
    order = np.argsort(patients)
    scores = np.concatenate([own for _, own in kept]) if kept else np.zeros(0)
    fold = np.repeat(np.arange(len(kept)), [own.size for own, _ in kept])
    return Scores(patients[order], scores[order], fold[order])


def _performance(model: Scores, labels: Floats, protocol: StudyProtocol) -> Performance:
    """All folds together: counts and sums add up, but patients are ranked within their own fold."""
    found = performance(model.scores, labels, evaluation=protocol.evaluation)
    return replace(found, auc=stratified_auc(model.scores, labels, model.folds)) if np.any(model.folds) else found


def _readings(
    ratings: Mapping[str, Floats], first: Scores, labels: Floats, protocol: StudyProtocol, *, seed: int
) -> dict[str, Reading]:
    found = {}
    for name, comparator in protocol.comparators.items():
        own = ratings[name][first.patients]
        rated = ~np.isnan(own)
        called = np.array([bool(r) and comparator.calls(x, protocol.variables) for x, r in zip(own, rated, strict=True)], bool)
        if rated.any():
            found[name] = read(
                first.scores,
                labels,
                own,
                called,
                thresholds=protocol.evaluation.thresholds,
                own_auc=metrics.auc_interval(own[rated], labels[rated]),
                seed=derive(seed, name),
                strata=first.folds,
            )
    return found
