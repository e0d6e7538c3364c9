"""What lies in a picture of the neck: how strongly each tissue echoes and how much of the pulse it takes.

Echoes are in dB against normal gland, losses in dB / (cm MHz) one way. Levels are chosen so that the pictures look like
those of linear probes of 7 to 14 MHz; order and size of the structures follow textbooks of neck ultrasound.

Notation: ``B`` patients of a batch, ``[B, D, L]`` samples of a scanner's beams.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.synthetic.physics import TISSUE_LOSS, Field, Scanner, smooth_noise
from client.synthetic.placement import Column, Ellipse, Placement

_LESION_DB = {"isoechoic": -1.0, "hypoechoic": -7.0, "markedly_hypoechoic": -13.0}
_LESION_LOSS = {"isoechoic": 0.55, "hypoechoic": 0.65, "markedly_hypoechoic": 0.95}
_EDGE_MM = {"smooth": 0.15, "irregular": 0.2, "ill_defined": 1.1}
_BLOOD_DB, _BLOOD_LOSS = -38.0, 0.12
_MUSCLE_LOSS, _BONE_LOSS, _CALCIUM_LOSS = 0.68, 4.0, 7.0
_SHADOW_OF_A_SPECK = 2.2
_TEXTURE_DB, _TEXTURE_STEP_DB = 5.0, 2.5  # standard deviation of the patches at average texture, and more for each one more
_TEXTURE_LIMITS_DB = 0.5, 11.0
_BRIGHT_PATCHES = 1.6  # of their standard deviations lie between the ground and the mean

Chosen = NDArray[np.bool_] | slice  # [B]


@dataclass(frozen=True)
class Tissue:
    """Echo in dB and loss of each sample, ``[B, D, L]``, and where an artery is, 0..1."""

    echo: Field
    loss: Field
    artery: Field


def neck(
    v: pd.DataFrame, texture: NDArray[np.float64], placed: Placement, scanner: Scanner, rng: np.random.Generator
) -> Tissue:
    """The scene of each patient: neck, gland, and the lesion as the table and its ``texture`` ``[B]`` say."""
    x, y = scanner.beams
    shape = (len(v), scanner.pixels, scanner.pixels)
    scene = _Scene(np.zeros(shape, np.float32), np.full(shape, TISSUE_LOSS, np.float32), x, y, scanner, rng)
    inside, normal = _gland_depth(placed, x, y)
    streaks = scene.noise(2.6, 0.19)  # fibres of muscle and fat, along the skin
    _behind(scene, placed, streaks)
    _layers_in_front(scene, placed, streaks[:, ::-1])
    _gland(scene, v, inside)
    artery = _artery(scene, placed) if placed.plane == "transverse" else np.zeros_like(scene.echo)
    _trachea(scene, placed)
    radius = placed.lesion_radius(x, y)
    _capsule(scene, inside, normal, _broken(v, placed, x, y))
    _lesion(scene, v, texture, placed, radius)
    _calcium(scene, v["calcification"], placed, radius)
    return Tissue(scene.echo, scene.loss, artery)


def gland_mask(placed: Placement, x: Field, y: Field) -> NDArray[np.bool_]:
    """Whether points lie in the thyroid, lobe and isthmus together."""
    return _gland_depth(placed, x, y)[0] > 0.0


@dataclass
class _Scene:
    """Maps under construction: later tissue is painted over earlier."""

    echo: Field
    loss: Field
    x: Field
    y: Field
    scanner: Scanner
    rng: np.random.Generator

    def paint(
        self, where: Field, *, echo: Field | float, loss: Field | float | None = None, chosen: Chosen = slice(None)
    ) -> None:
        """Mix tissue in by ``where``, 0..1, in the pictures ``chosen``."""
        self.echo[chosen] += where * (echo - self.echo[chosen])
        if loss is not None:
            self.loss[chosen] += where * (loss - self.loss[chosen])

    def noise(self, across_mm: float | Column, along_mm: float | Column) -> Field:
        scale = self.scanner.mm_per_pixel
        return smooth_noise(self.echo.shape, across=across_mm / scale, along=along_mm / scale, rng=self.rng)

    def draw(self, low: float, high: float) -> Column:
        return np.asarray(self.rng.uniform(low, high, (len(self.echo), 1, 1)), dtype=np.float32)

    def wave(self, height: float, length: float) -> Field:
        """A surface's depth along x: waves of about ``height`` and ``length`` mm, ``[B, ., L]``."""
        first = np.sin(2.0 * np.pi * (self.x / length + self.draw(0.0, 1.0)))
        second = np.sin(2.0 * np.pi * (self.x / (0.43 * length) + self.draw(0.0, 1.0)))
        return np.asarray(height * (first + 0.5 * second), dtype=np.float32)


def _behind(scene: _Scene, placed: Placement, streaks: Field) -> None:
    """Muscle in front of the spine, and the spine's surface, behind which is nothing but shadow."""
    scene.echo[:] = -16.0 + 5.0 * np.maximum(streaks, -0.6)
    scene.loss[:] = _MUSCLE_LOSS
    back = placed.gland.y + placed.gland.along
    fascia = back + scene.draw(0.8, 2.2) + scene.wave(0.7, 30.0)
    scene.paint(_line(scene.y - fascia, 0.4), echo=-2.0 + 4.0 * streaks)
    spine = np.maximum(back + scene.draw(6.0, 12.0), 29.0) + scene.wave(1.4, 33.0)
    slope = np.gradient(spine, scene.scanner.mm_per_pixel, axis=2)
    scene.paint(_line(scene.y - spine, 0.6), echo=-10.0 + 20.0 * np.exp(-(slope**2) / 0.04))
    scene.paint(_soft(scene.y - spine - 0.6, 1.2), echo=-20.0, loss=_BONE_LOSS)


def _layers_in_front(scene: _Scene, placed: Placement, streaks: Field) -> None:
    """Skin, fat with septa, and strap muscles with their fasciae."""
    fat_end = scene.draw(3.2, 4.8) + scene.wave(0.35, 34.0)
    lobe = np.clip(1.0 - ((scene.x - placed.gland.x) / (1.15 * placed.gland.across)) ** 2, 0.0, 1.0)
    muscle_end = placed.gland.y - placed.gland.along * np.sqrt(lobe) - 0.3
    muscle_end = np.minimum(muscle_end, placed.gland.y)
    scene.paint(_soft(muscle_end - scene.y, 0.3), echo=-17.0 + 5.0 * np.maximum(streaks, -0.3), loss=_MUSCLE_LOSS)
    middle = 0.45 * (fat_end + muscle_end) + scene.wave(0.4, 26.0)
    scene.paint(_line(scene.y - middle, 0.28), echo=-3.0 + 3.0 * streaks)
    scene.paint(_soft(fat_end - scene.y, 0.3), echo=-10.0 + 5.0 * np.maximum(streaks, -0.4))
    scene.paint(_line(scene.y - fat_end, 0.35), echo=6.0)
    scene.paint(_soft(1.3 - scene.y, 0.2), echo=5.0)
    scene.paint(_line(scene.y - 0.5, 0.3), echo=11.0)


def _gland_depth(placed: Placement, x: Field, y: Field) -> tuple[Field, Field]:
    """How far inside the thyroid's outline, negative outside, and the normal's share toward the probe."""
    inside, normal = placed.gland.depth_inside(x, y)
    if placed.plane == "longitudinal":
        return inside, normal
    middle = placed.isthmus[:, 0, 0]
    gland, side = placed.gland, placed.side
    even = np.ones_like(side)
    bridge = Ellipse(gland.x - side * (gland.across + 7.0), gland.y - 0.55 * gland.along, 11.0 * even, 1.9 * even)
    lobes = [Ellipse(gland.x + way * (gland.across + 5.5), gland.y + 4.5, 8.5 * even, 7.5 * even) for way in (-1.0, 1.0)]
    for chosen, part in ((~middle, bridge), (middle, lobes[0]), (middle, lobes[1])):
        if chosen.any():
            other, its_normal = part.take(chosen).depth_inside(x, y)
            normal[chosen] = np.where(other > inside[chosen], its_normal, normal[chosen])
            inside[chosen] = np.maximum(inside[chosen], other)
    return inside, normal


def _gland(scene: _Scene, v: pd.DataFrame, inside: Field) -> None:
    """Even grey; darker and patchy with Hashimoto's thyroiditis."""
    ill = _column(v["hashimoto"])
    patches = scene.noise(1.1, 0.8)
    scene.paint(_soft(inside, 0.2), echo=scene.draw(-1.0, 1.5) - 4.0 * ill + (1.0 + 1.6 * ill) * patches, loss=TISSUE_LOSS)


def _capsule(scene: _Scene, inside: Field, normal: Field, broken: Field) -> None:
    """A bright line, brightest where it lies across the beam; gone where the tumour breaks through."""
    shown = _line(inside, 0.28) * (0.25 + 0.75 * normal**2) * (1.0 - broken)
    scene.paint(shown, echo=9.0)
    scene.paint(broken * _soft(-inside, 0.3), echo=-9.0)


def _broken(v: pd.DataFrame, placed: Placement, x: Field, y: Field) -> Field:
    """Where tumour has broken the capsule, 0..1: minimal extension opens it, gross extension goes on into the muscle."""
    minimal, gross = _column(v["ete"] == "minimal"), _column(v["ete"] == "gross")
    size = np.maximum(placed.lesion.across, placed.lesion.along)
    dx, dy = x - placed.lesion.x, y - placed.lesion.y
    ahead = dx * placed.toward[0] + dy * placed.toward[1]
    aside = np.abs(dx * placed.toward[1] - dy * placed.toward[0])
    wide = np.where(gross > 0, 0.75, 0.5) * size
    far = size + np.where(gross > 0, 2.5, 0.6) + 1.5
    # A lesson of the table: extension occurs at any distance, so that the tongue reaches from the lesion to the capsule.
    return np.asarray((minimal + gross) * _soft(wide - aside, 0.4) * _soft(far - ahead, 0.4) * (ahead > 0.0), dtype=np.float32)


def _artery(scene: _Scene, placed: Placement) -> Field:
    """The common carotid artery at the outer side of the lobe: no echo, a bright wall, and bright tissue behind."""
    lumen = np.zeros_like(scene.echo)
    gap = 15.5 * placed.isthmus
    for way, chosen in ((1.0, np.ones(len(scene.echo), np.bool_)), (-1.0, placed.isthmus[:, 0, 0])):
        size = scene.draw(2.8, 3.6)
        centre = placed.gland.x + way * placed.side * (placed.gland.across + gap + size + scene.draw(0.2, 1.0))
        artery = Ellipse(centre, placed.gland.y + scene.draw(-1.0, 3.0), size, 0.95 * size).take(chosen)
        if chosen.any():
            inside, normal = artery.depth_inside(scene.x, scene.y)
            lumen[chosen] += _soft(inside, 0.15)
            scene.paint(_soft(inside, 0.15), echo=_BLOOD_DB, loss=_BLOOD_LOSS, chosen=chosen)
            scene.paint(_line(inside + 0.3, 0.4) * (0.35 + 0.65 * normal**2), echo=8.0, chosen=chosen)
    return lumen


def _trachea(scene: _Scene, placed: Placement) -> None:
    """Cartilage, the bright face of the air behind it, and below only its echoes back and forth, each fainter.

    Along the neck it lies behind the isthmus only.
    """
    gland, radius = placed.gland, scene.draw(8.0, 9.5)
    if placed.plane == "longitudinal":
        face = gland.y + gland.along + 2.2 + scene.wave(0.25, 8.0)
        depth = scene.y - face + 1.8
        scene.paint(placed.isthmus * _soft(depth, 0.2), echo=-15.0)
        _air(scene, face, lit=placed.isthmus.astype(np.float32), facing=np.ones_like(radius))
        scene.paint(placed.isthmus * _line(depth, 0.35), echo=6.0)
        return
    aside = gland.x - placed.side * (gland.across + 0.72 * radius)
    centre_x = np.where(placed.isthmus, gland.x, aside)
    top = np.where(placed.isthmus, gland.y + gland.along, gland.y - 0.3 * gland.along)
    centre_y: Column = np.asarray(top + radius + 0.4)
    cartilage, normal = Ellipse(centre_x, centre_y, radius, radius).depth_inside(scene.x, scene.y)
    facing = np.clip(1.0 - ((scene.x - centre_x) / (0.93 * radius)) ** 2, 0.0, 1.0)
    ring = _soft(cartilage, 0.2)
    scene.paint(ring, echo=-15.0)
    _air(scene, centre_y - np.sqrt(facing) * radius + 1.6, lit=(facing > 0.0).astype(np.float32), facing=facing)
    in_front = _soft(centre_y - 0.2 * radius - scene.y, 2.0)
    scene.paint(ring * in_front * _line(cartilage, 0.35) * (0.1 + 0.9 * normal**2), echo=6.0)


def _air(scene: _Scene, face: Field, *, lit: Field, facing: Field) -> None:
    """Below ``face``, in the beams ``lit``: echoes at even distances, the brighter the more of the face looks to the probe."""
    below, period = scene.y - face, scene.draw(2.0, 3.4)
    scene.paint(lit * _soft(below, 0.15), echo=-24.0, loss=0.35)
    echoes = 15.0 - 26.0 * (1.0 - facing) - 9.0 * np.maximum(below, 0.0) / period
    echoes = echoes - 7.0 * (1.0 - np.cos(2.0 * np.pi * below / period))
    scene.paint(lit * _soft(below + 0.35, 0.1), echo=np.maximum(echoes, -24.0 - 0.6 * np.maximum(below, 0.0)))


def _lesion(scene: _Scene, v: pd.DataFrame, texture: NDArray[np.float64], placed: Placement, radius: Field) -> None:
    """Even inside at low texture, patchy at high: the patches' standard deviation over the lesion follows from it alone.

    Patches are bright on a ground that keeps its level, so that a patchy lesion is brighter on the whole.
    """
    short = np.minimum(placed.lesion.across, placed.lesion.along)
    edge = _column(v["margin"].map(_EDGE_MM)) / short
    inside = _soft(1.0 - radius, edge)
    grain = np.clip(0.13 * short, 0.3, 0.8)
    patches = scene.noise(grain, 0.85 * grain)
    weight = inside / inside.sum(axis=(1, 2), keepdims=True)
    patches -= (weight * patches).sum(axis=(1, 2), keepdims=True)
    patches /= np.sqrt((weight * patches**2).sum(axis=(1, 2), keepdims=True))
    amplitude = np.clip(_TEXTURE_DB + _TEXTURE_STEP_DB * _column(texture), *_TEXTURE_LIMITS_DB)
    level = _column(v["echogenicity"].map(_LESION_DB)) + _BRIGHT_PATCHES * (amplitude - _TEXTURE_DB)
    scene.paint(
        inside,
        echo=level + amplitude * patches,
        loss=_column(v["echogenicity"].map(_LESION_LOSS)),
    )
    smooth = _column(v["margin"] == "smooth")
    scene.paint(smooth * _line((radius - 1.06) * short, 0.35), echo=-13.0)  # the halo of a nodule that pushes aside


def _calcium(scene: _Scene, calcification: "pd.Series[str]", placed: Placement, radius: Field) -> None:
    """Specks, each a bright point with a faint shadow; or one coarse piece with a full one."""
    macro = np.flatnonzero(calcification == "macro")
    lesion = placed.lesion
    size = np.clip(0.42 * lesion.across, 0.7, 2.5)
    piece = Ellipse(lesion.x, lesion.y - 0.25 * lesion.along, size, np.clip(0.35 * size, 0.4, 0.8))
    inside = _soft(1.0 - piece.radius(scene.x, scene.y)[macro], 0.2)
    scene.echo[macro] += inside * (14.0 - scene.echo[macro])
    scene.loss[macro] += inside * _CALCIUM_LOSS
    inner = radius < 0.8
    for index in np.flatnonzero(calcification == "micro"):
        candidates = np.flatnonzero(inner[index])
        count = 4 + scene.rng.poisson(0.8 * float(lesion.across[index, 0, 0] + lesion.along[index, 0, 0]))
        specks = scene.rng.choice(candidates, size=min(int(count), len(candidates)), replace=False)
        scene.echo[index].reshape(-1)[specks] = 19.0
        scene.loss[index].reshape(-1)[specks] += _SHADOW_OF_A_SPECK


def _line(distance: Field, width: float) -> Field:
    """1 on a surface, falling off over ``width`` mm on both sides."""
    return np.asarray(np.exp(-((distance / np.float32(width)) ** 2)))


def _soft(inside: Field, width: float | Column) -> Field:
    """1 well inside, 0 well outside, over about ``width`` between."""
    return 0.5 * (1.0 + np.tanh(inside * (2.0 / np.asarray(width, dtype=np.float32))))


def _column(values: "pd.Series[Any] | NDArray[np.generic]") -> Column:
    return np.asarray(values, dtype=np.float32)[:, None, None]
