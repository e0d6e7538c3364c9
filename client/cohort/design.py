"""The parts of a site's cohort as a study's design wants them: the site's own split, a fold, or all patients tested."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from client.cohort.split import sizes
from client.cohort.tensors import StudyPatients
from shared_model.messages import Part
from shared_model.protocol import StudyProtocol
from shared_model.protocol_design import Fold

_NOBODY = torch.zeros(0, dtype=torch.int64)


def designed(patients: StudyPatients, protocol: StudyProtocol, *, site: str) -> StudyPatients:
    """``patients``, as they come from the site's own split, in the parts that ``protocol`` wants."""
    if site in protocol.evaluation.external:
        everybody = torch.arange(len(patients.tensors))
        return replace(patients, parts={"train": _NOBODY, "tune": _NOBODY, "test": everybody})
    if protocol.evaluation.fold is not None:
        return replace(patients, parts=_fold_parts(patients, protocol.evaluation.fold))
    return patients


def _fold_parts(patients: StudyPatients, fold: Fold) -> dict[Part, Tensor]:
    """Test, tuning and training patients of ``fold``.

    Each outcome class is dealt out to the folds in the site's random order, the positives from the first fold on, the negatives
    from where they stopped, so that folds differ by one patient at most. Those of the other folds tune and train in the
    proportion of the site's split; tuning patients are of the folds that follow, so that they too differ from fold to fold.
    """
    shares = {part: float(len(patients.parts[part])) for part in ("train", "tune")}
    total = sum(shares.values())
    labels = patients.tensors.label.cpu()[patients.order]
    parts: dict[Part, list[int]] = {"train": [], "tune": [], "test": []}
    dealt = 0
    for outcome in (1, 0):
        members = patients.order[labels == outcome].tolist()
        turn = {patient: (dealt + place - (fold.k - 1)) % fold.of for place, patient in enumerate(members)}
        dealt += len(members)
        parts["test"] += [patient for patient in members if turn[patient] == 0]
        others = sorted((patient for patient in members if turn[patient]), key=turn.__getitem__)
        if total:
            share: Mapping[Part, float] = {"train": shares["train"] / total, "tune": shares["tune"] / total}
            tuning = sizes(len(others), share).get("tune", 0)
            parts["tune"] += others[:tuning]
            parts["train"] += others[tuning:]
    return {part: torch.tensor(sorted(members), dtype=torch.int64) for part, members in parts.items()}
