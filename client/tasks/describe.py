"""``describe``: counts and moments of the cohort, from which the center derives normalisation and who takes part."""

from collections.abc import Mapping

from torch import Tensor

from client.cohort.tensors import CohortTensors
from client.tasks import groups
from shared_model.inputs import categorical_names, numeric_names
from shared_model.messages import Part
from shared_model.protocol import StudyProtocol
from shared_model.summaries import CategoryCounts, Moments, PartCounts


def moments_and_counts(
    tensors: CohortTensors, index: Tensor, protocol: StudyProtocol
) -> tuple[dict[str, Moments], dict[str, CategoryCounts]]:
    """Moments of each numeric and counts of each categorical variable among patients ``index`` int64 ``[n]``, by name, in
    the protocol's order."""
    index = index.to(tensors.label.device)
    numeric, present = tensors.numeric[index].double().cpu(), tensors.numeric_present[index].cpu()  # [n, N]
    categorical = tensors.categorical[index].cpu()  # [n, K]
    moments = {
        name: Moments.of(numeric[present[:, column], column].numpy()) for column, name in enumerate(numeric_names(protocol))
    }
    counts = {
        name: CategoryCounts(
            tuple(int((categorical[:, column] == code).sum()) for code in range(len(protocol.variables[name].categories)))
        )
        for column, name in enumerate(categorical_names(protocol))
    }
    return moments, counts


def part_counts(tensors: CohortTensors, parts: Mapping[Part, Tensor]) -> dict[Part, PartCounts]:
    """Patients and positives of each part."""
    labels = tensors.label.cpu()
    return {part: PartCounts(len(index), int(labels[index].sum())) for part, index in parts.items()}


def missing_counts(tensors: CohortTensors, protocol: StudyProtocol) -> dict[str, int | None]:
    """Patients without a value, by variable."""
    return {name: int((~present).sum()) for name, present in groups.variables_present(tensors, protocol).items()}


def modality_counts(tensors: CohortTensors, protocol: StudyProtocol) -> dict[str, int | None]:
    """Patients with at least one image or one value of each modality."""
    return {name: int(present.sum()) for name, present in groups.modalities(tensors, protocol).items()}
