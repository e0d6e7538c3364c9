"""Does an explanation depend on what the network has learned, does it repeat, and is attention an attribution?

The cascade (Adebayo 2018) puts the parameters back to untrained ones, from the head to the pictures' encoder: a map that stays
the same shows edges, not the network. Repeatability compares a picture with itself under faint noise, as another frame of
the same lesion would have it. Similarity is Spearman's rank correlation over places.
"""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from shared_model.attribution.faithfulness import places
from shared_model.attribution.frozen import to_numpy
from shared_model.attribution.maps import Method, picture_map, shown
from shared_model.attribution.shares import Floats
from shared_model.inputs import PatientBatch
from shared_model.network import MultimodalNetwork

STAGES = ("head", "joint_blocks", "stream_blocks", "tokens", "encoder")
NOISE = 0.02  # standard deviation in 0..1: five grey levels


def cascade(network: MultimodalNetwork, untrained: MultimodalNetwork) -> Iterator[tuple[str, MultimodalNetwork]]:
    """Copies of ``network`` whose parameters are those of ``untrained`` up to and with each of ``STAGES``."""
    mixed = deepcopy(network)
    for stage in STAGES:
        for name, parameter in mixed.named_parameters():
            if _stage_of(name) == stage:
                with torch.no_grad():
                    parameter.copy_(untrained.get_parameter(name))
        yield stage, mixed


def randomised(
    network: MultimodalNetwork, untrained: MultimodalNetwork, batch: PatientBatch, method: Method, *, direction: Tensor
) -> dict[str, Floats]:
    """Similarity of each picture's map to that of the network itself after each stage, ``[M]`` of the pictures shown."""
    visible, original = shown(network, batch), places(picture_map(network, batch, method, direction=direction))
    return {
        stage: similarity(original, places(picture_map(mixed, batch, method, direction=direction)), visible)
        for stage, mixed in cascade(network, untrained)
    }


def repeated(
    network: MultimodalNetwork, batch: PatientBatch, method: Method, *, direction: Tensor, original: Tensor, seed: int
) -> Floats:
    """Similarity of each picture's map ``original`` to that of the picture with faint noise, ``[M]`` of the pictures shown."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch.images[:, :, :1].shape, generator=generator).to(batch.images)
    grey = (batch.images[:, :, :1] + NOISE * noise).clamp(0.0, 1.0)
    again = batch.with_images(torch.cat([grey, batch.images[:, :, 1:]], dim=2))
    return similarity(places(original), places(picture_map(network, again, method, direction=direction)), shown(network, batch))


def similarity(one: Tensor, other: Tensor, visible: Tensor) -> Floats:
    """Spearman's correlation of two maps ``[B, V, GRID, GRID]`` of each picture ``visible``, ``[M]``; 0 where one is flat."""
    return rank_correlation(to_numpy(one[visible].flatten(1)), to_numpy(other[visible].flatten(1)))


def rank_correlation(one: Floats, other: Floats) -> Floats:
    """Spearman's correlation of the rows of two arrays ``[n, k]``, ``[n]``; 0 where a row is constant."""
    if not one.size:
        return np.zeros(len(one))
    ranks = [rankdata(values, axis=1) for values in (one, other)]
    first, second = (values - values.mean(axis=1, keepdims=True) for values in ranks)
    size = np.sqrt(np.square(first).sum(axis=1) * np.square(second).sum(axis=1))
    return np.asarray(np.where(size > 0.0, (first * second).sum(axis=1) / np.where(size > 0.0, size, 1.0), 0.0))


def _stage_of(name: str) -> str:
    first = name.split(".", maxsplit=1)[0]
    if first in {"head", "norm"}:
        return "head"
    if first in {"joint_blocks", "stream_blocks"}:
        return first
    return "encoder" if name.startswith("image_tokens.encoder.") else "tokens"


def untrained_as(network: nn.Module, other: nn.Module) -> MultimodalNetwork:
    """``other``, an untrained network, on the device of ``network``.

    Raises:
        ValueError: it has other parameters.
    """
    if [name for name, _ in network.named_parameters()] != [name for name, _ in other.named_parameters()]:
        raise ValueError("an untrained network of another kind")
    assert isinstance(other, MultimodalNetwork)
    return other.to(next(network.parameters()).device)
