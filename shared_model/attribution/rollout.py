"""Attention rollout (Abnar and Zuidema 2020): how much of each token reaches the mean that is classified.

Attention weights are computed again from what the attention layers are given, by hooks that are gone afterwards; no module
keeps any. They say where information may flow, not what it does: the tests compare them with ablation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shared_model.fusion import Attention, BidirectionalBlock, Projections
from shared_model.inputs import PatientBatch
from shared_model.network import MultimodalNetwork, TableTerms


class Rollout(NamedTuple):
    """Shares of attention that add up to 1 a patient: ``pictures`` ``[B, V, G, G]``, ``variables`` ``[B, J]``, and the rest in
    summary tokens, ``[B, A]``. Empty streams have size 0. Of late fusion, where no attention reaches a variable, the shares are
    those of the pictures' network."""

    pictures: Tensor
    variables: Tensor
    summaries: Tensor


@torch.no_grad()
def attention_rollout(network: MultimodalNetwork, batch: PatientBatch) -> Rollout:
    """Rollout over all blocks of the fusion, with the network in evaluation mode from now on."""
    network.eval()
    blocks = [*network.stream_blocks, *network.joint_blocks]
    with _attention(blocks) as seen:
        streams = network.tokens(batch, network.present(batch))
        if isinstance(network.table_tokens, TableTerms):
            streams = streams[:1]
        network.fuse(streams)
    sizes = [stream.mask.shape[1] for stream in streams]
    mask = torch.cat([stream.mask for stream in streams], dim=1)  # [B, T]
    flow = torch.eye(sum(sizes), device=mask.device).expand(len(batch), -1, -1)
    place = 0
    for block in blocks:
        count = 2 if isinstance(block, BidirectionalBlock) else 1
        attention = _joint(seen[place : place + count], sizes)
        place += count
        flow = (0.5 * attention + 0.5 * torch.eye(sum(sizes), device=mask.device)) @ flow
    weight = mask.to(flow.dtype)
    share = ((weight / weight.sum(dim=1, keepdim=True))[:, None] @ flow)[:, 0]  # [B, T]
    return _split(network, batch, torch.where(mask, share, 0.0), sizes)


def _split(network: MultimodalNetwork, batch: PatientBatch, share: Tensor, sizes: list[int]) -> Rollout:
    count, pictures, variables, summaries = len(batch), share.new_zeros(len(share), 0, 1, 1), share[:, :0], []
    parts = list(torch.split(share, sizes, dim=1))
    if network.image_tokens is not None:
        own, grid = parts.pop(0), network.image_tokens.grid
        first = len(network.image_tokens.modalities)
        summaries.append(own[:, :first])
        pictures = own[:, first:].reshape(count, -1, grid, grid)  # [B, V * G * G] -> [B, V, G, G]
    if isinstance(network.table_tokens, TableTerms):
        variables = share.new_zeros(count, len(network.table_tokens.group))
    elif network.table_tokens is not None:
        own, first = parts.pop(0), len(network.table_tokens.modalities)
        summaries.append(own[:, :first])
        variables = own[:, first:]
    return Rollout(pictures, variables, torch.cat(summaries, dim=1))


def _joint(attention: list[list[Tensor]], sizes: list[int]) -> Tensor:
    """One block's attention over all tokens, ``[B, T, T]``: the mean of attention to the own stream and to the other."""
    if len(attention) == 1:
        return attention[0][0]
    (image_image, image_table), (table_table, table_image) = attention
    rows = [torch.cat([image_image, image_table], dim=2), torch.cat([table_image, table_table], dim=2)]
    return 0.5 * torch.cat(rows, dim=1)


@contextmanager
def _attention(blocks: list[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Collects, for every attention layer in the order of calls, the mean over heads of its weights to each source."""
    seen: list[list[Tensor]] = []

    def record(_: nn.Module, sources: tuple[Projections, ...], __: Any) -> None:
        seen.append([_weights(sources[0].query, source) for source in sources])

    layers = [module for block in blocks for module in block.modules() if isinstance(module, Attention)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _weights(query: Tensor, source: Projections) -> Tensor:
    scores = query @ source.key.transpose(2, 3) / query.shape[3] ** 0.5  # [B, h, T, S]
    if source.mask is not None:
        scores = scores.masked_fill(~source.mask[:, None, None, :], -torch.inf)
    weights: Tensor = scores.softmax(dim=3).mean(dim=1)
    return weights
