"""Tests of the maps over a site's pictures: rows of cells, a row a patient. The maps themselves end here."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.explaining.contributions import Explainer, Rows
from shared_model.attribution import METHODS, Method, picture_map
from shared_model.attribution.faithfulness import PictureGame, places, pointing
from shared_model.attribution.frozen import to_numpy
from shared_model.attribution.sanity import STAGES, cascade, repeated, similarity
from shared_model.explanation_layout import CHEAP
from shared_model.inputs import PatientBatch
from shared_model.network import MultimodalNetwork, build_network
from shared_model.summaries import Normalization

Floats = NDArray[np.float64]
INCOMPLETE = 0.05  # of what the pictures' detail moves the logit: a gap of integrated gradients over pixels that counts as one


def picture_rows(explainer: Explainer, batch: PatientBatch, outline: Tensor | None) -> Rows:
    """Every test of every method on ``batch``; ``outline`` bool ``[B, V, H, W]`` of the lesions, None if nobody has any."""
    network = explainer.network
    assert isinstance(network, MultimodalNetwork)
    game, rows = PictureGame.of(network, batch), {}
    everybody = game.visible.any(dim=1).cpu().numpy()
    chance = game.play_at_random(seed=explainer.seed)
    mixed = dict(cascade(network, _untrained(explainer, network)))
    for method in METHODS:
        found = picture_map(network, batch, method, direction=game.direction)
        curves = game.play(places(found))
        areas = (curves.deletion, curves.insertion, chance.deletion, chance.insertion)
        rows[f"faithfulness.{method}"] = everybody, np.stack([f(a) for a in areas for f in (np.asarray, np.square)], axis=1)
        if outline is not None:
            rows[f"pointing.{method}"] = everybody, _pointed(found, outline, game.visible)
        rows[f"cascade.{method}"] = everybody, _cascade(mixed, batch, method, found=found, game=game)
        again = repeated(network, batch, method, direction=game.direction, original=found, seed=explainer.seed)
        rows[f"repeat.{method}"] = everybody, _by_patient(again, game.visible)[:, None]
        if method == "integrated_gradients":
            rows["complete.integrated_gradients"] = everybody, _gaps(found, game)
    return rows


def _untrained(explainer: Explainer, network: MultimodalNetwork) -> MultimodalNetwork:
    protocol = explainer.protocol
    stand_in = Normalization(  # the cascade takes parameters from it, and nothing else
        mean=(0.0,) * sum(v.kind == "numeric" for v in protocol.variables.values()),
        scale=(1.0,) * sum(v.kind == "numeric" for v in protocol.variables.values()),
        frequency=tuple(
            (1.0 / len(v.categories),) * len(v.categories) for v in protocol.variables.values() if v.kind == "categorical"
        ),
    )
    settings = protocol.network.model_copy(update={"pretrained": None})
    random = protocol.model_copy(update={"network": settings})
    built: Any = build_network(random, normalization=stand_in, seed=explainer.seed % 2**31)
    return built.to(next(network.parameters()).device)  # type: ignore[no-any-return]


def _cascade(
    mixed: dict[str, MultimodalNetwork], batch: PatientBatch, method: Method, *, found: Tensor, game: PictureGame
) -> Floats:
    """Similarity after each stage, or after the last alone where a map is dear; ``[B, stages]``."""
    stages = STAGES if method in CHEAP else STAGES[-1:]
    maps = (picture_map(mixed[stage], batch, method, direction=game.direction) for stage in stages)
    alike = [_by_patient(similarity(places(found), places(other), game.visible), game.visible) for other in maps]
    return np.stack(alike, axis=1)


def _pointed(found: Tensor, outline: Tensor, visible: Tensor) -> Floats:
    """Share of hits over a patient's pictures, its square, and the lesion's mean share of them; NaN without an outline."""
    hit, area = (np.where(visible.cpu().numpy(), values, np.nan) for values in pointing(found, outline))
    known = ~np.isnan(hit)
    count = np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    hits = np.nansum(hit, axis=1) / count
    return np.stack([hits, np.square(hits), np.nansum(area, axis=1) / count], axis=1)


def _gaps(found: Tensor, game: PictureGame) -> Floats:
    """Relative completeness gap of integrated gradients over pixels, and whether it counts; ``[B, 2]``."""
    way = to_numpy(game.whole - game.bare)
    summed = to_numpy(found.sum(dim=(1, 2, 3)) * game.direction)
    gap = np.abs(summed - way) / np.maximum(np.abs(way), 0.05)
    return np.stack([np.minimum(gap, 1.0), gap > INCOMPLETE], axis=1).astype(np.float64)


def _by_patient(values: Floats, visible: Tensor) -> Floats:
    """Mean over each patient's pictures of ``values`` ``[M]``; ``[B]``, NaN without pictures."""
    spread = np.full(tuple(visible.shape), np.nan)
    spread[visible.cpu().numpy()] = values
    known = ~np.isnan(spread)
    count = np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    return np.asarray(np.nansum(spread, axis=1) / count)


def outlines_of(images: Tensor, slots: Tensor) -> Tensor:
    """Lesions of the patients of ``slots`` ``[B, V]`` from stored outlines uint8 ``[M, H, W]``, bool ``[B, V, H, W]``."""
    found = images.new_zeros((*slots.shape, *images.shape[1:]), dtype=torch.bool)
    filled = slots >= 0
    found[filled] = images[slots[filled]] > 127
    return found
