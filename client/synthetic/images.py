"""Ultrasound of synthetic patients: what the table says of the lesion, and what only a picture shows.

A picture shows the lesion's size, pole, distance to the capsule, extension, echogenicity, margin, calcification and shape as
the table has them, and, alone, the patient's *texture*: how patchy the lesion is inside. The Doppler view shows the
*vascularity*: how much of the lesion and its surround is coloured by flow.

Notation: ``B`` patients of a batch, ``S`` = ``Scanner.pixels``.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.synthetic.anatomy import gland_mask, neck
from client.synthetic.patients import Patients
from client.synthetic.physics import Field, Scanner, acquire, smooth_noise
from client.synthetic.placement import Placement, Plane, place
from shared_model.seeds import derive

View = Literal["bmode_transverse", "bmode_longitudinal", "doppler"]

_PLANE: dict[View, Plane] = {
    "bmode_transverse": "transverse",
    "bmode_longitudinal": "longitudinal",
    "doppler": "transverse",
}
THREADS = min(8, os.cpu_count() or 1)  # numpy leaves the interpreter free for other threads
_BATCH = 16  # so that the maps of a batch stay in the processor's cache
_COLOUR_MARGIN_MM = 4.0  # of the colour box round the lesion
_FLOW_REACH = 1.35  # how far outside the lesion its vessels lie, in its own radius
_VESSEL_MM = 0.45


@dataclass(frozen=True)
class Pictures:
    """Pictures of one view.

    Attributes:
        pixels: uint8 ``[n, S, S]``, or ``[n, S, S, 3]`` of Doppler.
        boxes: int64 ``[n, 4]``, the lesion's ``x0, y0, x1, y1`` in pixels.
        lesion, gland: bool ``[n, S, S]``, the true masks.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.int64]
    lesion: NDArray[np.bool_]
    gland: NDArray[np.bool_]


def draw_pictures(patients: Patients, view: View, *, scanner: Scanner, seed: int) -> Pictures:
    """Draw one picture of each patient; the same arguments give the same pictures.

    The views of a seed show the same lesion, Doppler in the plane of the transverse view.
    """

    def draw(start: int) -> Pictures:
        return _draw_batch(patients.part(start, start + _BATCH), view, scanner, derive(seed, start))

    with ThreadPoolExecutor(THREADS) as pool:
        batches = list(pool.map(draw, range(0, len(patients), _BATCH)))
    return Pictures(
        pixels=np.concatenate([batch.pixels for batch in batches]),
        boxes=np.concatenate([batch.boxes for batch in batches]),
        lesion=np.concatenate([batch.lesion for batch in batches]),
        gland=np.concatenate([batch.gland for batch in batches]),
    )


def _draw_batch(patients: Patients, view: View, scanner: Scanner, seed: int) -> Pictures:
    plane = _PLANE[view]
    placed = place(patients.variables, plane, np.random.default_rng(derive(seed, plane)))
    rng = np.random.default_rng(derive(seed, view))
    tissue = neck(patients.variables, patients.texture, placed, scanner, rng)
    grey = acquire(tissue.echo, tissue.loss, scanner=scanner, rng=rng)
    radius = placed.lesion_radius(*scanner.raster)
    boxes = _boxes(placed, scanner)
    pixels = grey
    if view == "doppler":
        artery = scanner.scan_convert(tissue.artery) > 0.5
        pixels = _colour(grey, radius, artery=artery, boxes=boxes, vascularity=patients.vascularity, scanner=scanner, rng=rng)
    return Pictures(
        pixels=np.round(255.0 * pixels).astype(np.uint8),
        boxes=boxes,
        lesion=radius < 1.0,
        gland=gland_mask(placed, *scanner.raster),
    )


def _colour(
    grey: Field,
    radius: Field,
    *,
    artery: NDArray[np.bool_],
    boxes: NDArray[np.int64],
    vascularity: NDArray[np.float64],
    scanner: Scanner,
    rng: np.random.Generator,
) -> Field:
    """Colour flow within a box round the lesion; float ``[B, S, S, 3]``.

    The share of the lesion and its surround that is coloured follows from ``vascularity``: 2 to 42 %, 22 % on average.
    """
    shares = 0.02 + 0.40 / (1.0 + np.exp(-1.3 * vascularity))
    size = _VESSEL_MM / scanner.mm_per_pixel
    vessels = smooth_noise(grey.shape, across=size, along=size, rng=rng)
    velocity = 0.6 * smooth_noise(grey.shape, across=5.0 * size, along=5.0 * size, rng=rng)
    picture = np.repeat(grey[..., None], 3, axis=3)  # [B, S, S, 3]
    for index, share in enumerate(shares):
        near = radius[index] <= max(_FLOW_REACH, radius[index].min())
        flow = near & (vessels[index] > np.quantile(vessels[index][near], 1.0 - share))
        flow |= ~near & (vessels[index] > 2.6)
        window = _window(boxes[index], scanner)
        speed = np.where(artery[index], 0.9, velocity[index])[window]
        shown = (flow | artery[index])[window] & scanner.in_view[window]
        picture[index][window][shown] = _flow_colour(speed[shown])
        _outline(picture[index], window)
    return picture


def _flow_colour(velocity: Field) -> Field:
    """Red to yellow toward the probe, blue to cyan away; ``[k]`` -> ``[k, 3]``."""
    speed = np.clip(0.35 + np.abs(velocity), 0.0, 1.0)
    warm = np.stack([0.55 + 0.45 * speed, 0.85 * speed**2, 0.08 * speed], axis=1)
    cold = np.stack([0.08 * speed, 0.80 * speed**2, 0.55 + 0.45 * speed], axis=1)
    return np.where(velocity[:, None] >= 0.0, warm, cold)


def _window(box: NDArray[np.int64], scanner: Scanner) -> tuple[slice, slice]:
    margin = round(_COLOUR_MARGIN_MM / scanner.mm_per_pixel)
    x0, y0, x1, y1 = box + margin * np.array([-1, -1, 1, 1])
    last = scanner.pixels - 1
    return slice(max(y0, 1), min(y1, last)), slice(max(x0, 1), min(x1, last))


def _outline(picture: Field, window: tuple[slice, slice]) -> None:
    rows, columns = window
    line = np.array([0.35, 0.85, 0.45])
    picture[rows.start - 1 : rows.stop + 1, [columns.start - 1, columns.stop]] = line
    picture[[rows.start - 1, rows.stop], columns] = line


def _boxes(placed: Placement, scanner: Scanner) -> NDArray[np.int64]:
    corners = placed.lesion_box() + np.float32(scanner.field_mm / 2.0) * np.array([1, 0, 1, 0], dtype=np.float32)
    pixels = corners / scanner.mm_per_pixel
    whole = np.concatenate([np.floor(pixels[:, :2]), np.ceil(pixels[:, 2:])], axis=1)
    return np.asarray(np.clip(whole, 0, scanner.pixels), dtype=np.int64)
