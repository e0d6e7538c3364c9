"""``describe``: counts and moments of the cohort, from which the center derives normalisation and who takes part."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from client.cohort.tensors import CohortTensors
from client.tasks import groups
from shared_model.disclosure import Suppression, Why
from shared_model.inputs import categorical_names, numeric_names
from shared_model.messages import DescribeReply, Part
from shared_model.protocol import StudyProtocol
from shared_model.summaries import CategoryCounts, Moments, PartCounts


def described_part(protocol: StudyProtocol) -> Part:
    """The part whose patients moments and category counts are of: with differential privacy the tuning patients, for those
    that train are protected, and unprotected statistics of them would undo it."""
    return "tune" if protocol.privacy.dp else "train"


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


def protecting_training_patients(reply: DescribeReply) -> DescribeReply:
    """``reply`` without what depends on a training patient's data: only how many they are is told."""
    withheld = ["positive train patients", "images", *(f"patients without {name}" for name in reply.missing)]
    withheld += [f"patients with {name}" for name in reply.modalities]
    return replace(
        reply,
        flow=replace(reply.flow, images_found=None, images_unusable=None),
        parts={part: replace(counts, positives=None) if part == "train" else counts for part, counts in reply.parts.items()},
        missing=dict.fromkeys(reply.missing),
        modalities=dict.fromkeys(reply.modalities),
        suppressed=(*reply.suppressed, *(Suppression(what, Why.PRIVATE) for what in withheld)),
    )


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
