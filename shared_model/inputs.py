"""What a network sees: tensors of a batch of patients, with masks for whatever is missing.

Notation used for tensor shapes: ``B`` patients of a batch, ``P`` patients of a cohort, ``M`` stored images of a cohort,
``V`` image slots of a patient (``Images.per_patient``), ``C`` channels (grey level, lesion mask), ``H`` = ``W`` =
``Images.size``, ``N`` numeric and ``K`` categorical variables in the protocol's order.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from shared_model.protocol import StudyProtocol

ABSENT = -1


@dataclass(frozen=True)
class PatientBatch:
    """A batch of patients. ``PatientBatch`` of a network without images has ``V`` = 0.

    Attributes:
        images: float ``[B, V, C, H, W]`` in 0..1; zeros in empty slots.
        views: int64 ``[B, V]``, index into ``Images.views``, ``ABSENT`` in an empty slot.
        numeric: float ``[B, N]``, in the protocol's units, not standardised; 0 where missing.
        numeric_present: bool ``[B, N]``.
        categorical: int64 ``[B, K]``, index into the variable's categories, ``ABSENT`` where missing.
        label: float ``[B]``, 1 positive, 0 negative.
    """

    images: Tensor
    views: Tensor
    numeric: Tensor
    numeric_present: Tensor
    categorical: Tensor
    label: Tensor

    def __len__(self) -> int:
        return int(self.label.shape[0])

    def to(self, device: torch.device) -> Self:
        """The same batch on ``device``."""
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def with_images(self, images: Tensor) -> Self:
        """The same patients with other pixels ``[B, V, C, H, W]``, e.g. augmented ones."""
        return replace(self, images=images)

    @property
    def view_present(self) -> Tensor:
        """bool ``[B, V]``."""
        return self.views != ABSENT


def numeric_names(protocol: StudyProtocol) -> tuple[str, ...]:
    """Numeric variables in the order of ``PatientBatch.numeric``'s columns."""
    return tuple(name for name, variable in protocol.variables.items() if variable.kind == "numeric")


def categorical_names(protocol: StudyProtocol) -> tuple[str, ...]:
    """Categorical variables in the order of ``PatientBatch.categorical``'s columns."""
    return tuple(name for name, variable in protocol.variables.items() if variable.kind == "categorical")
