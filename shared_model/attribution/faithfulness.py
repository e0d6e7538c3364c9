"""Is an explanation true to the network? Parts are taken away in its order, and in random orders for comparison.

Deletion blurs the most important places first: the faster the network's answer falls to that of blurred pictures, the better.
Insertion starts from blurred pictures (Petsiuk 2018). The answer is the share of the way between the two that is left, 1 for
the pictures and 0 for blurred ones, held within 0..1, so that patients count alike; a patient whose pictures move the logit by
less than ``MOVED`` has no such share. The pointing game (Zhang 2018) asks whether a map is largest within the lesion, which a
map that knows nothing hits as often as the lesion is large.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shared_model.attribution.frozen import Frozen, to_numpy
from shared_model.attribution.maps import blurred, shown
from shared_model.attribution.shares import Floats
from shared_model.inputs import PatientBatch
from shared_model.network import MultimodalNetwork

GRID = 8  # places a side into which a picture is cut
STEPS = 6
MOVED = 0.05  # logits


@dataclass(frozen=True)
class Curves:
    """Areas under the curves of a map's order, each ``[B]`` in 0..1, NaN for patients whose pictures do not move the logit."""

    deletion: Floats
    insertion: Floats


@dataclass(frozen=True)
class PictureGame:
    """Patients whose pictures are blurred place by place.

    Attributes:
        frozen: the patients as they are. visible: slots with a picture, bool ``[B, V]``.
        whole, bare: logits of the pictures and of blurred ones, ``[B]``.
    """

    network: MultimodalNetwork
    batch: PatientBatch
    frozen: Frozen
    visible: Tensor
    smooth: Tensor
    whole: Tensor
    bare: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, network: MultimodalNetwork, batch: PatientBatch) -> "PictureGame":
        """Of ``batch``, with the network in evaluation mode from now on."""
        frozen = Frozen.of(network, batch)
        game = cls(
            network, batch, frozen, shown(network, batch), blurred(batch.images), frozen.logits(), torch.zeros(len(batch))
        )
        places = game.visible.new_zeros(*game.visible.shape, GRID, GRID)
        return replace(game, bare=game.logits(kept=places))

    @property
    def direction(self) -> Tensor:
        """Which way the pictures' detail moves the logit, 1 or -1, ``[B]``: maps explain this."""
        return torch.where(self.whole >= self.bare, 1.0, -1.0)

    @torch.no_grad()
    def logits(self, *, kept: Tensor) -> Tensor:
        """Logits ``[B]`` where only the places ``kept``, bool ``[B, V, GRID, GRID]``, are as they were."""
        assert self.network.image_tokens is not None
        pixels = F.interpolate(kept.float(), size=self.batch.images.shape[-2:], mode="nearest").bool()  # [B, V, H, W]
        images = torch.where(pixels[:, :, None], self.batch.images, self.smooth)
        return self.frozen.logits(pictures=self.network.image_tokens.encode(images, self.visible))

    def play(self, order: Tensor) -> Curves:
        """Curves of ``order``, ``[B, V, GRID, GRID]``: places with larger values go, or come, first."""
        rank, count = self._ranks(order)
        deletion, insertion = [], []
        for step in range(STEPS + 1):
            gone = rank < torch.round(count * step / STEPS)[:, None, None, None]
            deletion.append(self._left(self.logits(kept=~gone)))
            insertion.append(self._left(self.logits(kept=gone)))
        return Curves(_area(deletion), _area(insertion))

    def play_at_random(self, *, seed: int, times: int = 1) -> Curves:
        """Mean curves of ``times`` random orders."""
        generator = torch.Generator().manual_seed(seed)
        shape = (*self.visible.shape, GRID, GRID)
        played = [self.play(torch.rand(shape, generator=generator).to(self.visible.device)) for _ in range(times)]
        deletion, insertion = ([getattr(curves, name) for curves in played] for name in ("deletion", "insertion"))
        return Curves(np.mean(deletion, axis=0), np.mean(insertion, axis=0))

    def _ranks(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Rank of each place among the patient's own, 0 first, and how many there are; others come last."""
        own = self.visible[:, :, None, None].expand_as(order)
        flat = torch.where(own, order, -torch.inf).flatten(1)
        rank = flat.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return rank.reshape(order.shape), own.flatten(1).sum(dim=1)

    def _left(self, logits: Tensor) -> Floats:
        way = to_numpy(self.whole - self.bare)
        moved = np.abs(way) >= MOVED
        share = to_numpy(logits - self.bare) / np.where(moved, way, 1.0)
        return np.where(moved, np.clip(share, 0.0, 1.0), np.nan)


def places(picture_maps: Tensor) -> Tensor:
    """Maps ``[B, V, H, W]`` as the mean of each place, ``[B, V, GRID, GRID]``."""
    if picture_maps.shape[1] == 0:
        return picture_maps.new_zeros(*picture_maps.shape[:2], GRID, GRID)
    return F.adaptive_avg_pool2d(picture_maps, GRID)


def pointing(picture_maps: Tensor, outline: Tensor) -> tuple[Floats, Floats]:
    """Whether each map is largest within the lesion (1 or 0), and the lesion's share of the picture, ``[B, V]`` each.

    NaN where there is no outline, or the lesion fills the picture. ``outline`` is bool ``[B, V, H, W]``. Of places that are
    equally large, each counts with its share.
    """
    flat, inside = picture_maps.flatten(2), outline.flatten(2)
    largest = flat == flat.amax(dim=2, keepdim=True)
    hit = to_numpy((largest & inside).sum(dim=2)) / np.maximum(to_numpy(largest.sum(dim=2)), 1.0)
    area = to_numpy(inside.float().mean(dim=2))
    usable = (area > 0.0) & (area < 1.0)
    return np.where(usable, hit, np.nan), np.where(usable, area, np.nan)


def variables_deleted(frozen: Frozen, values: Floats, mean: Tensor) -> Floats:
    """Area under the deletion curve of the variables, put at their mean in the order of ``values`` ``[B, J]``; ``[B]``.

    As for pictures: the share of the way from the patient's logit to that of the mean patient, NaN where there is none.
    """
    with torch.no_grad():
        whole, bare = to_numpy(frozen.logits()), to_numpy(frozen.logits(table=mean))
        way = whole - bare
        order = np.argsort(-values * np.where(way >= 0.0, 1.0, -1.0)[:, None], axis=1, kind="stable")
        rank = torch.from_numpy(np.argsort(order, axis=1)).to(mean.device)
        moved, curve = np.abs(way) >= MOVED, []
        for step in range(values.shape[1] + 1):
            table = torch.where((rank < step)[:, :, None], mean, frozen.table)
            share = (to_numpy(frozen.logits(table=table)) - bare) / np.where(moved, way, 1.0)
            curve.append(np.where(moved, np.clip(share, 0.0, 1.0), np.nan))
    return _area(curve)


def _area(curve: list[Floats]) -> Floats:
    """Trapezoidal area of equal steps over 0..1."""
    values = np.stack(curve)
    return np.asarray((values[1:] + values[:-1]).mean(axis=0) / 2.0)
