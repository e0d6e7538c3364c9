"""Which patients are of one subgroup, or have one modality: masks over patients, taken from the cohort's tensors."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cohort.tensors import CohortTensors
from shared_model.inputs import ABSENT, categorical_names, numeric_names
from shared_model.protocol import StudyProtocol

Mask = NDArray[np.bool_]
MISSING = "not recorded"


def subgroups(tensors: CohortTensors, index: Tensor, protocol: StudyProtocol) -> dict[str, dict[str, Mask]]:
    """For each variable of ``evaluation.subgroups``, masks ``[n]`` of its levels over patients ``index`` int64 ``[n]``.

    The levels of a variable share out all patients; those without a value are a level of their own, if there are any.
    """
    index = index.to(tensors.label.device)
    found: dict[str, dict[str, Mask]] = {}
    for name, subgroup in protocol.evaluation.subgroups.items():
        if protocol.variables[name].kind == "numeric":
            column = numeric_names(protocol).index(name)
            values = tensors.numeric[index, column].double().cpu().numpy()
            present = tensors.numeric_present[index, column].cpu().numpy()
            values = np.exp(values) if protocol.variables[name].log else values
            levels = {label: present & inside for label, inside in _bands(values, subgroup.cuts)}
        else:
            codes = tensors.categorical[index, categorical_names(protocol).index(name)].cpu().numpy()
            present = codes != ABSENT
            levels = {category: codes == code for code, category in enumerate(protocol.variables[name].categories)}
        found[name] = levels | ({} if present.all() else {MISSING: ~present})
    return found


def modalities(tensors: CohortTensors, protocol: StudyProtocol) -> dict[str, Mask]:
    """For each modality of the study, a mask ``[P]`` of the patients with at least one image or one value of it."""
    present: dict[str, Tensor] = {}
    if protocol.images:
        modality_of_view = [view.modality for view in protocol.images.views.values()]
        for modality in protocol.images.modalities:
            codes = torch.tensor([i for i, name in enumerate(modality_of_view) if name == modality])
            present[modality] = torch.isin(tensors.views.cpu(), codes).any(dim=1)
    values = variables_present(tensors, protocol)
    for group in protocol.groups:
        members = [mask for name, mask in values.items() if protocol.variables[name].group == group]
        present[group] = torch.stack(members).any(dim=0)
    return {name: mask.numpy() for name, mask in present.items()}


def variables_present(tensors: CohortTensors, protocol: StudyProtocol) -> Mapping[str, Tensor]:
    """For each variable, a bool tensor ``[P]`` of the patients with a value of it, in the protocol's order."""
    present = {name: tensors.numeric_present[:, column].cpu() for column, name in enumerate(numeric_names(protocol))}
    present |= {name: tensors.categorical[:, column].cpu() != ABSENT for column, name in enumerate(categorical_names(protocol))}
    return {name: present[name] for name in protocol.variables}


def _bands(values: NDArray[np.float64], cuts: tuple[float, ...]) -> Iterator[tuple[str, Mask]]:
    edges = (-np.inf, *cuts, np.inf)
    for low, high in pairwise(edges):
        label = (
            f"below {high:g}" if low == -np.inf else f"{low:g} and above" if high == np.inf else f"{low:g} to below {high:g}"
        )
        yield label, (values >= low) & (values < high)
