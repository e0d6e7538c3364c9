"""A cohort as tensors, and batches of it. Shapes as in ``shared_model.inputs``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared_model.inputs import ABSENT, PatientBatch
from shared_model.messages import Part
from shared_model.summaries import CohortFlow


@dataclass(frozen=True)
class CohortTensors:
    """All labelled patients of a site, images stored once each.

    Attributes:
        images: uint8 ``[M, C, H, W]``, 0..255; a lesion mask channel holds 0 or 255.
        slots: int64 ``[P, V]``, index into ``images``, ``ABSENT`` in an empty slot.
        views: int64 ``[P, V]``, index into the protocol's views, ``ABSENT`` in an empty slot.
        numeric: float32 ``[P, N]``, in the protocol's units (after ``log``); 0 where missing.
        numeric_present: bool ``[P, N]``.
        categorical: int64 ``[P, K]``, ``ABSENT`` where missing.
        label: float32 ``[P]``, 0 or 1.
    """

    images: Tensor
    slots: Tensor
    views: Tensor
    numeric: Tensor
    numeric_present: Tensor
    categorical: Tensor
    label: Tensor

    def __len__(self) -> int:
        return int(self.label.shape[0])

    def to(self, device: torch.device) -> Self:
        """The same cohort on ``device``."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def batch(self, index: Tensor) -> PatientBatch:
        """The patients ``index`` int64 ``[B]``, with images as floats in 0..1."""
        slots = self.slots[index]  # [B, V]
        filled = slots != ABSENT
        images = self.images.new_zeros((*slots.shape, *self.images.shape[1:]), dtype=torch.float32)  # [B, V, C, H, W]
        if slots.numel():
            images[filled] = self.images[slots[filled]].to(torch.float32) / 255.0
        return PatientBatch(
            images=images,
            views=self.views[index],
            numeric=self.numeric[index],
            numeric_present=self.numeric_present[index],
            categorical=self.categorical[index],
            label=self.label[index],
        )

    @property
    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))


@dataclass(frozen=True)
class StudyPatients:
    """A site's labelled patients as a study sees them: no identifiers, no findings.

    Attributes:
        parts: each of the three parts, as int64 indices ``[n]`` into ``tensors``.
        flow: what may leave the site.
        order: int64 ``[P]``, the patients in the site's own random order.
        ratings: float64 ``[P]`` for each comparator of the protocol: a number, or the place of a category; NaN where missing.
        members: hashes of the patients' identifiers, by which two exports can be compared; empty where there is nothing to
            compare. They hang on no secret that could be lost, so whoever writes them down hashes them with a key kept beside.
    """

    tensors: CohortTensors
    parts: Mapping[Part, Tensor]
    flow: CohortFlow
    order: Tensor
    ratings: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    members: frozenset[str] = frozenset()


def pool(cohorts: Sequence[StudyPatients]) -> StudyPatients:
    """The patients of several cohorts of one protocol as one, each in the part it had at its site."""
    ends = list(accumulate(len(cohort.tensors) for cohort in cohorts))
    offsets = [0, *ends[:-1]]
    parts = {
        part: torch.cat([cohort.parts[part] + offset for cohort, offset in zip(cohorts, offsets, strict=True)])
        for part in cohorts[0].parts
    }
    flow = CohortFlow(
        found=sum(cohort.flow.found or 0 for cohort in cohorts),
        excluded={},
        images_found=sum(cohort.flow.images_found or 0 for cohort in cohorts),
        images_unusable=sum(cohort.flow.images_unusable or 0 for cohort in cohorts),
    )
    return StudyPatients(
        concatenate([cohort.tensors for cohort in cohorts]),
        parts,
        flow,
        order=torch.cat([cohort.order + offset for cohort, offset in zip(cohorts, offsets, strict=True)]),
        ratings={name: np.concatenate([cohort.ratings[name] for cohort in cohorts]) for name in cohorts[0].ratings},
    )


def concatenate(cohorts: list[CohortTensors]) -> CohortTensors:
    """The patients of several cohorts of one protocol, in order (for central training in simulation)."""
    offsets = [0]
    for cohort in cohorts[:-1]:
        offsets.append(offsets[-1] + cohort.images.shape[0])
    shifted = [torch.where(c.slots == ABSENT, c.slots, c.slots + offset) for c, offset in zip(cohorts, offsets, strict=True)]
    joined = {f.name: torch.cat([getattr(cohort, f.name) for cohort in cohorts]) for f in fields(CohortTensors)}
    return CohortTensors(**(joined | {"slots": torch.cat(shifted)}))
