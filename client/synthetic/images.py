"""Simple thyroid-like ultrasound pictures of synthetic patients.

A picture shows what the table says of the lesion (size, pole, distance to the capsule, echogenicity, margin,
calcification, shape) and, alone, the patient's *texture*: how coarse the echo pattern of lesion and gland is. The Doppler
view shows the same gland with colour spots, the more of them the coarser the texture. Not a physical simulation.

Notation: ``B`` patients of a batch, ``S`` = ``Scanner.pixels``; x runs to the right, y into depth, both in mm.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.synthetic.patients import Patients
from shared_model.seeds import derive

View = Literal["bmode_transverse", "bmode_longitudinal", "doppler"]
Pixels = NDArray[np.float32]  # [B, S, S]
Column = NDArray[np.float32]  # [B, 1, 1]

_PLANE = {"bmode_transverse": "transverse", "bmode_longitudinal": "longitudinal", "doppler": "transverse"}
# Semi-axes of one thyroid lobe in mm, across and into depth, and its depth below the skin.
_LOBE = {"transverse": (11.0, 8.5), "longitudinal": (19.0, 8.5)}
_LOBE_DEPTH = 18.0
_LARGEST_DRAWN = 15.0  # semi-axis of a lesion in mm; a larger one would leave the picture
_POLE_OFFSET = {"upper": -0.55, "middle": 0.0, "lower": 0.55, "isthmus": 0.0}
_ECHO = {"isoechoic": 0.85, "hypoechoic": 0.50, "markedly_hypoechoic": 0.28}
_EDGE_MM = {"smooth": 0.25, "irregular": 0.25, "ill_defined": 1.2}
_BATCH = 64


@dataclass(frozen=True)
class Scanner:
    """How a hospital's machine draws: side of the square picture in ``pixels`` and ``field_mm``, ``speckle_mm`` (grain),
    ``gain`` and ``gamma`` of the grey scale, ``penetration_mm`` (depth at which brightness falls to 1/e)."""

    pixels: int = 128
    field_mm: float = 40.0
    speckle_mm: float = 0.35
    gain: float = 1.0
    gamma: float = 1.0
    penetration_mm: float = 60.0


@dataclass(frozen=True)
class Pictures:
    """Pictures of one view: ``pixels`` uint8 ``[n, S, S]``, or ``[n, S, S, 3]`` of Doppler; ``boxes`` int64 ``[n, 4]``, the
    lesion's ``x0, y0, x1, y1`` in pixels."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.int64]


def draw_pictures(patients: Patients, view: View, *, scanner: Scanner, seed: int) -> Pictures:
    """Draw one picture of each patient; the same arguments give the same pictures."""
    batches = [
        _draw_batch(patients, slice(start, start + _BATCH), view, scanner, seed) for start in range(0, len(patients), _BATCH)
    ]
    return Pictures(
        pixels=np.concatenate([batch.pixels for batch in batches]), boxes=np.concatenate([batch.boxes for batch in batches])
    )


@dataclass(frozen=True)
class _Lesion:
    """Where the lesion lies and how far each pixel is from its middle: ``radius`` is 1 on its outline."""

    x: Column
    y: Column
    across: Column
    along: Column
    radius: Pixels
    edge: Column


def _draw_batch(patients: Patients, part: slice, view: View, scanner: Scanner, seed: int) -> Pictures:
    plane = _PLANE[view]
    rng = np.random.default_rng(derive(seed, view, part.start))
    v = patients.variables.iloc[part]
    texture = _column(patients.texture[part])
    y, x = _grid(scanner)
    across = np.maximum(_LOBE[plane][0], _semi_axis(v) + 3.0)
    along = np.maximum(_LOBE[plane][1], _semi_axis(v) + 3.0)
    gland = np.sqrt((x / across) ** 2 + ((y - _LOBE_DEPTH) / along) ** 2)  # [B, S, S], 1 on the capsule
    same_in_plane = np.random.default_rng(derive(seed, plane, part.start))
    lesion = _place(v, plane, gland_axes=(across, along), x=x, y=y, rng=same_in_plane)

    inside_gland = _soft(1.0 - gland, 0.04)
    inside_lesion = _soft((1.0 - lesion.radius) * lesion.across, lesion.edge)
    echo = _neck(y, rng, len(v)) * (1.0 - inside_gland) + 0.62 * inside_gland
    echo = echo + 0.5 * np.exp(-(((gland - 1.0) / 0.03) ** 2)).astype(np.float32)  # the capsule
    echo = echo * (1.0 - inside_lesion) + _per(v["echogenicity"], _ECHO) * 0.62 * inside_lesion
    coarse = _smooth_noise(rng, len(v), scanner, sigma_mm=0.6)
    amplitude = np.minimum(0.18 * np.exp(0.7 * texture), 0.8)
    echo = echo * np.exp(amplitude * coarse * (0.6 * inside_gland + 0.4 * inside_lesion))
    echo = _calcify(echo, v["calcification"].to_numpy(), lesion, scanner, rng)
    grey = _to_grey(echo * _speckle(rng, len(v), scanner), y, scanner)
    pixels = _colour(grey, lesion, texture, scanner, rng) if view == "doppler" else grey
    return Pictures(np.round(255.0 * pixels).astype(np.uint8), _boxes(lesion, scanner))


def _place(
    v: pd.DataFrame, plane: str, *, gland_axes: tuple[Column, Column], x: Pixels, y: Pixels, rng: np.random.Generator
) -> _Lesion:
    """The lesion at its pole, its outline at the stated distance from the nearer (front or back) side of the capsule."""
    count = len(v)
    semi = _semi_axis(v)
    taller = _column(v["taller_than_wide"].to_numpy())
    across, along = np.where(taller > 0, 0.85 * semi, semi), np.where(taller > 0, semi, 0.8 * semi)
    if plane == "longitudinal":
        offset = _per(v["pole"], _POLE_OFFSET) + _column(rng.uniform(-0.1, 0.1, count))
    else:
        sideways = np.where(v["pole"] == "isthmus", 0.7, rng.uniform(-0.4, 0.4, count))
        offset = _column(sideways)
    centre_x = offset * (gland_axes[0] - across)
    half_height = gland_axes[1] * np.sqrt(1.0 - np.minimum(np.abs(centre_x) / gland_axes[0], 0.95) ** 2)
    distance = _column(v["capsule_distance"].to_numpy())
    side = _column(rng.choice([-1.0, 1.0], count))
    centre_y = _LOBE_DEPTH + side * np.maximum(half_height - along - distance, 0.0)
    dx, dy = (x - centre_x) / across, (y - centre_y) / along
    bumps = _column((v["margin"] == "irregular").to_numpy()) * _bumps(np.arctan2(dy, dx), rng)
    radius = np.sqrt(dx**2 + dy**2) / (1.0 + bumps)
    return _Lesion(centre_x, centre_y, across, along, radius.astype(np.float32), edge=_per(v["margin"], _EDGE_MM))


def _bumps(angle: Pixels, rng: np.random.Generator) -> Pixels:
    """An irregular outline: waves of the radius round the lesion, about a tenth of it."""
    count = len(angle)
    waves = [
        _column(rng.normal(0.0, 0.07, count)) * np.cos(k * angle + _column(rng.uniform(0.0, 2.0 * np.pi, count)))
        for k in (3, 5, 8)
    ]
    return np.asarray(np.clip(sum(waves), -0.35, 0.35), dtype=np.float32)


def _neck(y: Pixels, rng: np.random.Generator, count: int) -> Pixels:
    """Skin and layers of muscle in front of the gland, less bright tissue behind it."""
    phase = _column(rng.uniform(0.0, 2.0 * np.pi, count))
    front = 0.38 + 0.14 * np.sin(1.6 * y + phase)
    return np.asarray(np.where(y < 2.0, 0.75, np.where(y < _LOBE_DEPTH, front, 0.24)), dtype=np.float32)


def _calcify(
    echo: Pixels, calcification: NDArray[np.object_], lesion: _Lesion, scanner: Scanner, rng: np.random.Generator
) -> Pixels:
    """Microcalcifications as bright dots; a macrocalcification as one bright spot with a shadow behind it."""
    echo = echo.copy()
    y, x = _grid(scanner)
    for index in np.flatnonzero(calcification == "micro"):
        dots = 6 + int(rng.poisson(6.0))
        reach, angle = 0.8 * np.sqrt(rng.random(dots)), rng.uniform(0.0, 2.0 * np.pi, dots)
        dot_x = lesion.x[index, 0, 0] + reach * lesion.across[index, 0, 0] * np.cos(angle)
        dot_y = lesion.y[index, 0, 0] + reach * lesion.along[index, 0, 0] * np.sin(angle)
        echo[index, _pixel(dot_y, scanner), _pixel(dot_x + scanner.field_mm / 2.0, scanner)] = 1.4
    macro = np.flatnonzero(calcification == "macro")
    centre_x, centre_y, size = lesion.x[macro], lesion.y[macro], np.maximum(0.3 * lesion.across[macro], 0.6)
    shadow = (np.abs(x - centre_x) < size) & (y > centre_y)
    echo[macro] = np.where(shadow, 0.35 * echo[macro], echo[macro])
    echo[macro] = np.where(((x - centre_x) / size) ** 2 + ((y - centre_y) / (0.5 * size)) ** 2 < 1.0, 1.3, echo[macro])
    return echo


def _speckle(rng: np.random.Generator, count: int, scanner: Scanner) -> Pixels:
    """Fully developed speckle: Rayleigh amplitude of mean 1, compressed as a log display compresses it."""
    real, imaginary = (_smooth_noise(rng, count, scanner, sigma_mm=scanner.speckle_mm) for _ in range(2))
    return np.asarray((np.hypot(real, imaginary) / np.sqrt(np.pi / 2.0)) ** 0.3, dtype=np.float32)


def _to_grey(echo: Pixels, y: Pixels, scanner: Scanner) -> Pixels:
    attenuated = scanner.gain * echo * np.exp(-y / scanner.penetration_mm)
    return np.asarray(np.clip(attenuated, 0.0, 1.0) ** scanner.gamma, dtype=np.float32)


def _colour(grey: Pixels, lesion: _Lesion, texture: Column, scanner: Scanner, rng: np.random.Generator) -> Pixels:
    """Colour spots in and round the lesion, over 2 to 30 % of it; float ``[B, S, S, 3]``."""
    share = 0.02 + 0.28 / (1.0 + np.exp(-1.2 * texture))
    vessels = _smooth_noise(rng, len(grey), scanner, sigma_mm=0.7)
    # Of a standard normal field, the share above this logistic quantile.
    flow = (vessels > -np.log(share / (1.0 - share)) / 1.702) & (lesion.radius < 1.3)
    towards = _smooth_noise(rng, len(grey), scanner, sigma_mm=2.0) > 0.0
    tint = np.where(towards[..., None], np.array([1.0, 0.62, 0.25]), np.array([0.35, 0.65, 1.0]))  # [B, S, S, 3]
    return np.asarray(np.where(flow[..., None], tint, 0.8 * grey[..., None]), dtype=np.float32)


def _smooth_noise(rng: np.random.Generator, count: int, scanner: Scanner, *, sigma_mm: float) -> Pixels:
    """Gaussian noise of mean 0 and variance 1, smoothed by a Gaussian of ``sigma_mm``."""
    white = rng.standard_normal((count, scanner.pixels, scanner.pixels), dtype=np.float32)
    sigma = sigma_mm * scanner.pixels / scanner.field_mm
    rows = np.fft.fftfreq(scanner.pixels)[:, None]
    columns = np.fft.rfftfreq(scanner.pixels)[None, :]
    response = np.exp(-2.0 * (np.pi * sigma) ** 2 * (rows**2 + columns**2)).astype(np.float32)
    smooth = np.fft.irfft2(np.fft.rfft2(white) * response, s=white.shape[1:]).astype(np.float32)
    return np.asarray(smooth / smooth.std(axis=(1, 2), keepdims=True), dtype=np.float32)


def _boxes(lesion: _Lesion, scanner: Scanner) -> NDArray[np.int64]:
    left, right = lesion.x - lesion.across + scanner.field_mm / 2.0, lesion.x + lesion.across + scanner.field_mm / 2.0
    top, bottom = lesion.y - lesion.along, lesion.y + lesion.along
    low = [_pixel(edge[:, 0, 0], scanner) for edge in (left, top)]
    high = [_pixel(edge[:, 0, 0], scanner) + 1 for edge in (right, bottom)]
    return np.asarray(np.stack([*low, *high], axis=1), dtype=np.int64)  # [B, 4]


def _pixel(mm: NDArray[np.floating], scanner: Scanner) -> NDArray[np.int64]:
    return np.asarray(np.clip(mm * scanner.pixels / scanner.field_mm, 0, scanner.pixels - 1), dtype=np.int64)


def _grid(scanner: Scanner) -> tuple[Pixels, Pixels]:
    """y and x of each pixel's middle in mm, ``[1, S, 1]`` and ``[1, 1, S]``; x is 0 in the middle of the picture."""
    middle = ((np.arange(scanner.pixels) + 0.5) * scanner.field_mm / scanner.pixels).astype(np.float32)
    return middle[None, :, None], middle[None, None, :] - np.float32(scanner.field_mm / 2.0)


def _semi_axis(v: pd.DataFrame) -> Column:
    return _column(np.minimum(v["tumour_size"].to_numpy() / 2.0, _LARGEST_DRAWN))


def _soft(inside: Pixels, width: float | Column) -> Pixels:
    """1 well inside, 0 well outside, over ``width`` between."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(inside / (0.25 * width), -30.0, 30.0))), dtype=np.float32)


def _per(categories: "pd.Series[str]", values: dict[str, float]) -> Column:
    return _column(categories.map(values).to_numpy())


def _column(values: NDArray[np.generic]) -> Column:
    return np.asarray(values, dtype=np.float32)[:, None, None]
