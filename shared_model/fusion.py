"""Attention between two streams of tokens: images and table.

Notation: ``B`` patients, ``T`` tokens of a stream, ``D`` width, ``h`` heads. A mask is bool ``[B, T]``, True where a token
may be attended to; every patient has at least one such token in every stream. Built from ``nn.Linear`` alone, so that
per-patient gradients can be taken of every parameter.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MLP_RATIO = 4
NORM_EPSILON = 1e-6


class Projections(NamedTuple):
    """A stream seen by attention: ``query``, ``key`` and ``value`` ``[B, h, T, D/h]``; ``mask`` ``[B, T]`` or None for all."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None


class Attention(nn.Module):
    """Multi-head attention in two steps, for keys and values may come from another stream than the queries."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def project(self, tokens: Tensor, *, mask: Tensor | None) -> Projections:
        """Queries, keys and values of ``tokens`` ``[B, T, D]``."""
        query, key, value = (self._split(layer(tokens)) for layer in (self.query, self.key, self.value))
        return Projections(query, key, value, mask)

    def forward(self, own: Projections, *others: Projections) -> Tensor:
        """Mean of the attention of ``own`` queries to ``own`` and to each of the ``others``, ``[B, T, D]``."""
        attended = torch.stack([self._attend(own.query, source) for source in (own, *others)]).mean(dim=0)
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))  # [B, h, T, D/h] -> [B, T, D]
        return mixed

    def _attend(self, query: Tensor, source: Projections) -> Tensor:
        mask = None if source.mask is None else source.mask[:, None, None, :]  # [B, 1, 1, T]
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, source.key, source.value, attn_mask=mask, dropout_p=dropout)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)  # [B, h, T, D/h]


class JointBlock(nn.Module):
    """A pre-norm transformer block over one stream."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = Attention(width, heads=heads, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(MLP_RATIO * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """``tokens`` ``[B, T, D]``, ``mask`` ``[B, T]`` -> ``[B, T, D]``."""
        return self.update(tokens, self.project(tokens, mask=mask))

    def project(self, tokens: Tensor, *, mask: Tensor | None) -> Projections:
        """What this and other streams attend to in ``tokens`` ``[B, T, D]``."""
        return self.attention.project(self.attention_norm(tokens), mask=mask)

    def update(self, tokens: Tensor, own: Projections, *others: Projections) -> Tensor:
        """``tokens`` ``[B, T, D]`` after attention to their ``own`` stream and the ``others``, and the MLP."""
        tokens = tokens + self.dropout(self.attention(own, *others))
        change: Tensor = self.mlp(self.mlp_norm(tokens))
        return tokens + change


class BidirectionalBlock(nn.Module):
    """Image and table stream attend each to itself and to the other, and take the mean of the two (Shen et al. 2025)."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.image = JointBlock(width, heads=heads, dropout=dropout)
        self.table = JointBlock(width, heads=heads, dropout=dropout)

    def forward(self, image: Tensor, table: Tensor, *, image_mask: Tensor, table_mask: Tensor) -> tuple[Tensor, Tensor]:
        """``image`` ``[B, T, D]`` and ``table`` ``[B, S, D]`` with their masks -> both streams, of the same shapes."""
        from_image = self.image.project(image, mask=image_mask)
        from_table = self.table.project(table, mask=table_mask)
        return self.image.update(image, from_image, from_table), self.table.update(table, from_table, from_image)
