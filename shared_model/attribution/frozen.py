"""Patients whose pictures are encoded and whose values are looked up once, so that only the fusion is computed anew."""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared_model.inputs import PatientBatch
from shared_model.network import MultimodalNetwork


@dataclass(frozen=True)
class Frozen:
    """A network of tokens and what it has made of ``B`` patients so far.

    Attributes:
        batch: the patients without pixels.
        contents: of each stream, images first, see ``MultimodalNetwork.contents``.
        present: modalities that a patient has anything of, bool ``[B, A]``.
    """

    network: MultimodalNetwork
    batch: PatientBatch
    contents: tuple[Tensor, ...]
    present: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, network: MultimodalNetwork, batch: PatientBatch) -> Self:
        """Encode ``batch``, with the network in evaluation mode from now on."""
        network.eval()
        present = network.present(batch)
        contents = tuple(network.contents(batch, present))
        return cls(network, batch.with_images(batch.images[:, :, :0]), contents, present)

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def table(self) -> Tensor:
        """What the values of variables put into their tokens, ``[B, J, D]``."""
        return self.contents[-1]

    def logits(
        self,
        *,
        modalities: Tensor | None = None,
        table: Tensor | None = None,
        pictures: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Log odds ``[b]`` of the patients ``rows`` int64 ``[b]`` (all), with other ``modalities`` ``[b, A]`` (those that they
        have), ``table`` ``[b, J, D]`` or features of ``pictures`` ``[b, V, G * G, features]`` than their own."""
        batch, contents, present = self.batch, list(self.contents), self.present
        if rows is not None:
            batch = replace(batch, **{f.name: getattr(batch, f.name)[rows] for f in fields(batch)})
            contents, present = [content[rows] for content in contents], present[rows]
        if table is not None:
            contents[-1] = table
        if pictures is not None:
            contents[0] = pictures
        return self.network.logits_of(batch, contents, present if modalities is None else modalities)


def to_numpy(values: Tensor) -> NDArray[np.float64]:
    """``values`` as float64 on the CPU."""
    return np.asarray(values.detach().double().cpu().numpy(), dtype=np.float64)
