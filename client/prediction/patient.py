"""One patient, with or without a known outcome, as the model sees them, with the lesions' outlines."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cohort.load import load_cohort
from client.prediction.model_file import Model
from client.site_config import SiteConfig
from client.tasks.explain import with_outlines
from shared_model.inputs import ABSENT, PatientBatch


@dataclass(frozen=True)
class Patient:
    """``batch`` of this patient alone; ``outline`` bool ``[V, H, W]``, False where a picture has none; ``unusable`` pictures,
    each with its reason; ``out_of_range`` variables whose value is outside the study's plausible range and counts as missing;
    ``unreadable`` those whose cell is no number or no code of the study."""

    identifier: str
    batch: PatientBatch
    outline: NDArray[np.bool_]
    unusable: tuple[str, ...]
    out_of_range: tuple[str, ...]
    unreadable: tuple[str, ...]


def read_patient(config: SiteConfig, model: Model, identifier: str, *, where: Path) -> Patient:
    """Read the rows and pictures of patient ``identifier``.

    Raises:
        CohortError: nobody of that name, or files that do not fit the configuration.
    """
    images = model.protocol.images
    cohort = load_cohort(config, with_outlines(model.protocol), where=where, only=identifier)
    pictures = cohort.tensors.images  # [M, 2, H, W]
    tensors = cohort.tensors
    side = pictures.shape[-1]
    outline = np.zeros((tensors.slots.shape[1], side, side), dtype=np.bool_)
    if images is not None:
        for place, slot in enumerate(tensors.slots[0].tolist()):
            if slot != ABSENT:
                outline[place] = pictures[slot, 1].numpy() > 127
    batch = tensors.batch(torch.tensor([0]))
    channels = images.channels if images is not None else 1
    found = cohort.findings
    inputs = {name: found.variables[name] for name in model.protocol.variables}
    return Patient(
        identifier=identifier,
        batch=batch.with_images(_channels(batch.images, channels)),
        outline=outline,
        unusable=tuple(file.reason for file in found.images.unusable) if found.images else (),
        out_of_range=tuple(name for name, finding in inputs.items() if finding.out_of_range),
        unreadable=tuple(name for name, finding in inputs.items() if finding.no_number or finding.unmapped),
    )


def _channels(images: Tensor, count: int) -> Tensor:
    return images[:, :, :count]
