"""Tokens: what the attention blocks see of a patient's images and table.

Notation: ``B`` patients, ``V`` image slots, ``G`` image_grid, ``N`` numeric and ``K`` categorical variables, ``A``
modalities of a stream, ``D`` width. A stream has one summary token for each of its modalities, which says whether the
patient has the modality and is there even if not, and then the tokens of images or variables. Learned tokens are looked
up once for each patient in ``nn.Embedding``, whose per-patient gradient is known.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_model.encoders import build_encoder
from shared_model.inputs import ABSENT, PatientBatch, categorical_names, numeric_names
from shared_model.protocol import Images, Network, StudyProtocol
from shared_model.summaries import Normalization


class Tokens(NamedTuple):
    """``values`` ``[B, T, D]``; ``mask`` bool ``[B, T]``, True where a token may be attended to."""

    values: Tensor
    mask: Tensor


class Normalizer(nn.Module):
    """Location and scale of the variables, as buffers: they belong to a site or study and are never trained.

    Attributes:
        mean, scale: float ``[N]``.
        frequency: float, shares of all categories of all categorical variables, one variable after the other.
    """

    mean: Tensor
    scale: Tensor
    frequency: Tensor

    def __init__(self, protocol: StudyProtocol, normalization: Normalization | None) -> None:
        super().__init__()
        self._numeric = len(numeric_names(protocol))
        self._categories = [len(protocol.variables[name].categories) for name in categorical_names(protocol)]
        for name, size in {"mean": self._numeric, "scale": self._numeric, "frequency": sum(self._categories)}.items():
            self.register_buffer(name, torch.full((size,), torch.nan))
        if normalization is not None:
            self.set(normalization)

    def set(self, normalization: Normalization) -> None:
        """Use ``normalization`` from now on.

        Raises:
            ValueError: it is of other variables.
        """
        sizes = (len(normalization.mean), len(normalization.scale), [len(shares) for shares in normalization.frequency])
        if sizes != (self._numeric, self._numeric, self._categories):
            raise ValueError(f"normalization of {sizes} where the variables are {(self._numeric, self._categories)}")
        self.mean.copy_(torch.tensor(normalization.mean))
        self.scale.copy_(torch.tensor(normalization.scale))
        self.frequency.copy_(torch.tensor([share for shares in normalization.frequency for share in shares]))

    def numeric(self, batch: PatientBatch) -> Tensor:
        """Standardised numeric variables ``[B, N]``, 0 where missing."""
        return torch.where(batch.numeric_present, (batch.numeric - self.mean) / self.scale, 0.0)


class ImageTokens(nn.Module):
    """``G * G`` tokens for each image of a patient, from one encoder for all views.

    Attributes:
        modalities: names of the imaging modalities, ``A`` of them.
    """

    view_modality: Tensor  # [views]

    def __init__(self, images: Images, network: Network) -> None:
        super().__init__()
        self.modalities = images.modalities
        self.grid = network.image_grid
        self.encoder = build_encoder(images, network)
        self.projection = nn.Linear(self.encoder.features, network.width)
        self.position = _embedding(self.grid**2, network.width)
        self.view = _embedding(len(images.views), network.width)
        self.modality = _embedding(len(self.modalities), network.width)
        self.summary = _embedding(2 * len(self.modalities), network.width)
        modality = [self.modalities.index(view.modality) for view in images.views.values()]
        self.register_buffer("view_modality", torch.tensor(modality), persistent=False)

    def present(self, batch: PatientBatch) -> Tensor:
        """Imaging modalities of which a patient has any image, bool ``[B, A]``."""
        slots = F.one_hot(self._slot_modality(batch), len(self.modalities)).bool()  # [B, V, A]
        return (slots & batch.view_present[:, :, None]).any(dim=1)

    def forward(self, batch: PatientBatch, modalities: Tensor) -> Tokens:
        """Tokens of the images of ``modalities`` bool ``[B, A]``; other pixels are not looked at. T = A + V * G * G."""
        return self.assemble(batch, self.contents(batch, modalities), modalities)

    def contents(self, batch: PatientBatch, modalities: Tensor) -> Tensor:
        """Features ``[B, V, G * G, features]`` of the images of ``modalities`` bool ``[B, A]``, 0 elsewhere."""
        return self.encode(batch.images, self.shown(batch, modalities))

    def shown(self, batch: PatientBatch, modalities: Tensor) -> Tensor:
        """Image slots that belong to ``modalities`` bool ``[B, A]`` and hold an image, bool ``[B, V]``."""
        return batch.view_present & modalities.gather(1, self._slot_modality(batch))

    def assemble(self, batch: PatientBatch, contents: Tensor, modalities: Tensor) -> Tokens:
        """Tokens of ``contents`` that may be of more than ``modalities``: those of others are masked."""
        slot_modality = self._slot_modality(batch)  # [B, V]
        shown = self.shown(batch, modalities)
        places = torch.arange(self.grid**2, device=shown.device).expand(len(batch), -1)  # [B, G * G]
        of_slot = self.view(batch.views.clamp(min=0)) + self.modality(slot_modality)  # [B, V, D]
        tokens = self.projection(contents)  # [B, V, G * G, D]
        tokens = tokens + of_slot[:, :, None] + self.position(places)[:, None]
        mask = shown[:, :, None].expand(-1, -1, self.grid**2)
        return _with_summaries(Tokens(tokens.flatten(1, 2), mask.flatten(1, 2)), modalities, self.summary)

    def encode(self, images: Tensor, shown: Tensor) -> Tensor:
        """Features of the ``shown`` ones, bool ``[B, V]``, of ``images``; 0 elsewhere. Without any, the encoder rests."""
        features = images.new_zeros((*shown.shape, self.grid**2, self.encoder.features))
        if not shown.any():
            return features
        maps = self.encoder(images[shown])  # [M, features, h, w]
        pooled = F.adaptive_avg_pool2d(maps, self.grid).permute(0, 2, 3, 1).flatten(1, 2)  # [M, G * G, features]
        return features.to(pooled.dtype).masked_scatter(shown[:, :, None, None], pooled)

    def _slot_modality(self, batch: PatientBatch) -> Tensor:
        return self.view_modality[batch.views.clamp(min=0)]  # [B, V], 0 in empty slots


class TableTokens(nn.Module):
    """One token for each variable: an identity, plus its value. Every group of variables is a modality.

    A value is a row of one table: a numeric variable's row times the standardised value, a category's row, or the row that
    the variable has for being missing.

    Attributes:
        modalities: names of the groups, ``A`` of them.
    """

    group: Tensor  # [N + K]
    first_row: Tensor  # [N + K]

    def __init__(self, protocol: StudyProtocol, *, normalization: Normalization | None) -> None:
        super().__init__()
        width = protocol.network.width
        numeric, categorical = numeric_names(protocol), categorical_names(protocol)
        variables = [protocol.variables[name] for name in (*numeric, *categorical)]
        rows = [max(len(variable.categories), 1) for variable in variables]
        self.modalities = protocol.groups
        self.categories = tuple(rows[len(numeric) :])
        self.normalizer = Normalizer(protocol, normalization)
        self.identity = _embedding(len(variables), width)
        self.value = _embedding(sum(rows) + len(variables), width)
        self.modality = _embedding(len(self.modalities), width)
        self.summary = _embedding(2 * len(self.modalities), width)
        group = torch.tensor([self.modalities.index(variable.group) for variable in variables])
        self.register_buffer("group", group, persistent=False)
        self.register_buffer("first_row", torch.tensor(rows).cumsum(0) - torch.tensor(rows), persistent=False)

    def present(self, batch: PatientBatch) -> Tensor:
        """Groups of which a patient has any value, bool ``[B, A]``."""
        return groups_present(batch, self.group, count=len(self.modalities))

    def forward(self, batch: PatientBatch, modalities: Tensor) -> Tokens:
        """Tokens of the groups ``modalities`` bool ``[B, A]``; T = A + N + K."""
        return self.assemble(batch, self.contents(batch, modalities), modalities)

    def contents(self, batch: PatientBatch, modalities: Tensor) -> Tensor:
        """What the values of all variables put into their tokens, ``[B, N + K, D]``; ``modalities`` change nothing."""
        row, factor = self._rows(batch, self._variables(batch))
        put_in: Tensor = factor[:, :, None] * self.value(row)
        return put_in

    def mean_contents(self) -> Tensor:
        """``contents`` of the mean of the training patients, ``[N + K, D]``: numeric variables at their mean, categorical ones
        at the mean of their categories' rows. A variable that is never missing has this as its mean."""
        numeric = self.value.weight.new_zeros(len(self.normalizer.mean), self.value.embedding_dim)
        means = [numeric]
        shares, rows = self.normalizer.frequency, self.value.weight[len(numeric) :]
        for count in self.categories:
            means.append((shares[:count, None] * rows[:count]).sum(dim=0, keepdim=True))
            shares, rows = shares[count:], rows[count:]
        return torch.cat(means)

    def assemble(self, batch: PatientBatch, contents: Tensor, modalities: Tensor) -> Tokens:
        """Tokens of ``contents``; those of groups beyond ``modalities`` are masked."""
        variable, group = self._variables(batch), self.group.expand(len(batch), -1)
        tokens = self.identity(variable) + self.modality(group) + contents
        return _with_summaries(Tokens(tokens, modalities.gather(1, group)), modalities, self.summary)

    def _variables(self, batch: PatientBatch) -> Tensor:
        return torch.arange(len(self.group), device=self.group.device).expand(len(batch), -1)  # [B, N + K]

    def _rows(self, batch: PatientBatch, variable: Tensor) -> tuple[Tensor, Tensor]:
        """Each variable's row of the table of values, and the factor on it, both ``[B, N + K]``."""
        present = _value_present(batch)
        numeric = self.normalizer.numeric(batch)
        offset = torch.cat([torch.zeros_like(numeric, dtype=torch.int64), batch.categorical], dim=1)
        missing_row = self.value.num_embeddings - len(self.group) + variable
        row = torch.where(present, self.first_row + offset, missing_row)
        factor = torch.cat([numeric, torch.ones_like(batch.categorical, dtype=numeric.dtype)], dim=1)
        return row, torch.where(present, factor, 1.0)


def groups_present(batch: PatientBatch, group: Tensor, *, count: int) -> Tensor:
    """Which of ``count`` groups of variables a patient has any value of, bool ``[B, count]``; ``group`` int64 ``[N + K]`` is
    that of each variable."""
    in_group = F.one_hot(group, count).bool()  # [N + K, count]
    return (_value_present(batch)[:, :, None] & in_group).any(dim=1)


def _value_present(batch: PatientBatch) -> Tensor:
    return torch.cat([batch.numeric_present, batch.categorical != ABSENT], dim=1)  # [B, N + K]


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Learned tokens of about unit length, as much as the layers' other inputs."""
    embedding = nn.Embedding(rows, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    return embedding


def _with_summaries(tokens: Tokens, modalities: Tensor, summary: nn.Embedding) -> Tokens:
    """Put one token for each of ``modalities`` bool ``[B, A]`` before ``tokens``: one of two, as it is there or not."""
    count = modalities.shape[1]
    index = torch.arange(count, device=modalities.device) + count * modalities  # [B, A]
    return Tokens(
        torch.cat([summary(index), tokens.values], dim=1), torch.cat([torch.ones_like(modalities), tokens.mask], dim=1)
    )
