"""Where gland and lesion lie in a picture, so that size, pole and distance to the capsule are those of the table.

Lengths in mm; x to the right and y into depth from the middle of the skin. ``B`` patients of a batch.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.synthetic.physics import Field

Plane = Literal["transverse", "longitudinal"]
Column = NDArray[np.floating[Any]]  # float32 [B, 1, 1]
Waves = tuple[NDArray[np.float32], NDArray[np.float32]]  # amplitude and phase, [B, K] each

LARGEST_SEMI_AXIS = 12.0  # of a lesion as drawn; a larger one would leave the picture
_WIDEST, _LONGEST, _DEEPEST = 16.0, 34.0, 14.0  # semi-axes of the largest gland drawn
_POLE = {"upper": -0.5, "middle": 0.0, "lower": 0.5, "isthmus": 0.0}  # of the lobe's semi-axis, head to the left
_FLATNESS = 0.8  # short over long axis of a lesion
_WAVES = (3, 5, 8)  # of an irregular outline round the lesion
_OUTLINE_POINTS, _CAPSULE_POINTS = 64, 256
_HALVINGS = 18


@dataclass(frozen=True)
class Ellipse:
    """Middle and semi-axes; ``[B, 1, 1]`` each."""

    x: Column
    y: Column
    across: Column
    along: Column

    def radius(self, x: Field, y: Field) -> Field:
        """0 in the middle, 1 on the outline."""
        return np.asarray(np.sqrt(((x - self.x) / self.across) ** 2 + ((y - self.y) / self.along) ** 2), dtype=np.float32)

    def take(self, chosen: NDArray[np.bool_]) -> "Ellipse":
        """Those of the patients ``chosen``, bool ``[B]``."""
        return Ellipse(self.x[chosen], self.y[chosen], self.across[chosen], self.along[chosen])

    def depth_inside(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Distance inside the outline (to first order, exact on it) and how much of its normal points to the probe."""
        u, v = (x - self.x) / self.across, (y - self.y) / self.along
        radius = np.maximum(np.sqrt(u**2 + v**2), np.float32(1e-3))
        slope = np.hypot(u / self.across, v / self.along)
        distance = (1.0 - radius) * radius / np.maximum(slope, np.float32(1e-4))
        return distance, np.abs(v / self.along) / np.maximum(slope, np.float32(1e-4))


@dataclass(frozen=True)
class Placement:
    """A batch of scenes.

    Attributes:
        gland: the lobe, or the isthmus, that holds the lesion.
        lesion: its ellipse; ``waves`` are amplitude and phase ``[B, K]`` of an irregular outline round it.
        toward: unit vector x, y from the lesion to the nearest capsule, ``[B, 1, 1]`` each.
        isthmus: bool ``[B, 1, 1]``, the lesion is there and not in a lobe.
        side: 1 where the middle of the neck is to the left, -1 where it is to the right, ``[B, 1, 1]``; the outline's waves
            are mirrored with it.
    """

    plane: Plane
    gland: Ellipse
    lesion: Ellipse
    waves: Waves
    toward: tuple[Column, Column]
    isthmus: NDArray[np.bool_]
    side: Column

    def lesion_radius(self, x: Field, y: Field) -> Field:
        """0 in the lesion's middle, 1 on its outline."""
        amplitude, phase = self.waves
        radius = self.lesion.radius(x, y)
        wavy = np.flatnonzero(amplitude.any(axis=1))
        if len(wavy):
            dx = np.broadcast_to(self.side * (x - self.lesion.x) / self.lesion.across, radius.shape)[wavy]
            dy = np.broadcast_to((y - self.lesion.y) / self.lesion.along, radius.shape)[wavy]
            radius[wavy] /= 1.0 + _outline(np.arctan2(dy, dx), amplitude[wavy], phase[wavy])
        return radius

    def lesion_box(self) -> NDArray[np.float32]:
        """x0, y0, x1, y1 of the lesion's outline, ``[B, 4]``."""
        outline_x, outline_y = _points(self.lesion.across, self.lesion.along, self.waves)
        x, y = self.side[:, 0] * outline_x + self.lesion.x[:, 0], outline_y + self.lesion.y[:, 0]
        return np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)


def place(v: pd.DataFrame, plane: Plane, rng: np.random.Generator) -> Placement:
    """Gland and lesion of each patient of ``v``, the lesion's outline as far from the capsule as the table says.

    A lesion of more than 24 mm, or a distance that no gland of the picture can hold, is drawn as large as fits.
    """
    count = len(v)
    isthmus = _column(v["pole"] == "isthmus").astype(bool)
    long = np.minimum(_column(v["tumour_size"]) / 2.0, LARGEST_SEMI_AXIS)
    taller = _column(v["taller_than_wide"]) > 0
    across, along = np.where(taller, _FLATNESS * long, long), np.where(taller, long, _FLATNESS * long)
    waves = _irregularity(v, rng)
    across, along = _as_wide_as_its_outline(across, along, waves)
    reach = 1.0 + np.maximum(_outline(_angles(), *waves).max(axis=1), 0.0).astype(np.float32)[:, None, None]
    wide, high = across * reach, along * reach
    distance = _column(v["capsule_distance"])
    pole = _column(v["pole"].map(_POLE))
    semi = _gland_axes(plane, isthmus, pole, rng, wide=wide + distance, high=high + distance)
    top = _uniform(rng, count, 9.0, 11.5)
    gland = Ellipse(_column(np.zeros(count)), top + semi[1], *semi)
    toward = _toward(plane, isthmus, count, rng)
    start = pole * semi[0] if plane == "longitudinal" else np.zeros_like(pole)
    middle = _slide(semi, (across, along), waves, start=start, toward=toward, distance=distance)
    shift = -0.7 * middle[0] if plane == "longitudinal" else np.where(isthmus, 0.0, _uniform(rng, count, -1.0, 3.0))
    side = _column(rng.choice([-1.0, 1.0], count)) if plane == "transverse" else _column(np.ones(count))
    gland = Ellipse(side * shift, gland.y, *semi)
    lesion = Ellipse(side * (shift + middle[0]), gland.y + middle[1], across, along)
    return Placement(plane, gland, lesion, waves, (side * toward[0], toward[1]), isthmus, side)


def _as_wide_as_its_outline(across: Column, along: Column, waves: Waves) -> tuple[Column, Column]:
    """Semi-axes at which the outline, waves and all, is as wide and high as the ellipse was."""
    even = np.ones_like(across)
    x, y = _points(even, even, waves)
    return 2.0 * across / np.ptp(x, axis=1)[:, None, None], 2.0 * along / np.ptp(y, axis=1)[:, None, None]


def _gland_axes(
    plane: Plane, isthmus: NDArray[np.bool_], pole: Column, rng: np.random.Generator, *, wide: Column, high: Column
) -> tuple[Column, Column]:
    """Semi-axes of a gland that has room for ``wide`` and ``high`` on each side of the lesion's middle."""
    count = len(wide)
    if plane == "transverse":
        usual = np.where(isthmus, 11.0, _uniform(rng, count, 8.0, 10.5)), _uniform(rng, count, 6.5, 8.5)
        needed, limits = (1.05 * wide, 1.05 * high), (_WIDEST, _DEEPEST)
    else:
        usual = np.where(isthmus, 10.0, _uniform(rng, count, 20.0, 25.0)), _uniform(rng, count, 6.5, 8.5)
        tilt = 1.0 / np.sqrt(1.0 - pole**2)
        needed, limits = (1.05 * wide / (1.0 - np.abs(pole)), 1.15 * tilt * high), (_LONGEST, _DEEPEST)
    usual_high = np.where(isthmus, 2.5, usual[1])
    return (
        np.minimum(np.maximum(usual[0], needed[0]), limits[0]).astype(np.float32),
        np.minimum(np.maximum(usual_high, needed[1]), limits[1]).astype(np.float32),
    )


def _toward(plane: Plane, isthmus: NDArray[np.bool_], count: int, rng: np.random.Generator) -> tuple[Column, Column]:
    """To the front or back; in a lobe seen across also to the outer side, never to the trachea, where the capsule opens."""
    front = rng.choice([-1.0, 1.0], count)
    lean = rng.uniform(-0.2, 1.1, count) if plane == "transverse" else np.zeros(count)
    lean = np.where(isthmus[:, 0, 0], 0.0, lean)
    return _column(np.sin(lean)), _column(front * np.cos(lean))


def _slide(
    gland: tuple[Column, Column],
    lesion: tuple[Column, Column],
    waves: Waves,
    *,
    start: Column,
    toward: tuple[Column, Column],
    distance: Column,
) -> tuple[Column, Column]:
    """Middle of the lesion, moved from ``start`` until its outline is ``distance`` from the capsule; by bisection."""
    outline_x, outline_y = _points(*lesion, waves)  # [B, P]
    near, far = np.zeros_like(distance), gland[0] + gland[1]
    for _ in range(_HALVINGS):
        step = 0.5 * (near + far)
        x, y = outline_x + (start + step * toward[0])[:, 0], outline_y + (step * toward[1])[:, 0]
        left = _to_capsule(x, y, gland).min(axis=1)[:, None, None]
        near, far = np.where(left > distance, step, near), np.where(left > distance, far, step)
    return start + near * toward[0], near * toward[1]


def _to_capsule(x: Field, y: Field, gland: tuple[Column, Column]) -> Field:
    """Distance of points ``[B, P]`` inside an ellipse about 0 from its outline, negative outside; ``[B, P]``.

    The nearest point is found by Newton's method on the ellipse's parameter in the first quadrant (Eberly 2013, in a form
    that needs a fixed number of steps).
    """
    a, b = gland[0][:, 0], gland[1][:, 0]
    px, py = np.abs(x), np.abs(y)
    cosine = sine = np.full_like(px, np.sqrt(0.5))
    for _ in range(4):
        ex, ey = (a**2 - b**2) * cosine**3 / a, (b**2 - a**2) * sine**3 / b  # centre of curvature
        rx, ry = a * cosine - ex, b * sine - ey
        qx, qy = px - ex, py - ey
        ratio = np.hypot(rx, ry) / np.maximum(np.hypot(qx, qy), np.float32(1e-6))
        cosine, sine = np.clip((qx * ratio + ex) / a, 0.0, 1.0), np.clip((qy * ratio + ey) / b, 0.0, 1.0)
        length = np.maximum(np.hypot(cosine, sine), np.float32(1e-6))
        cosine, sine = cosine / length, sine / length
    away = np.hypot(a * cosine - px, b * sine - py)
    return np.where((px / a) ** 2 + (py / b) ** 2 < 1.0, away, -away)


def _irregularity(v: pd.DataFrame, rng: np.random.Generator) -> Waves:
    shape = (len(v), len(_WAVES))
    amplitude = rng.uniform(0.03, 0.09, shape) * (v["margin"] == "irregular").to_numpy()[:, None]
    return amplitude.astype(np.float32), rng.uniform(0.0, 2.0 * np.pi, shape).astype(np.float32)


def _outline(angle: Field, amplitude: NDArray[np.float32], phase: NDArray[np.float32]) -> Field:
    """How far an irregular outline leaves the ellipse, as a share of it."""
    extra = (1,) * (angle.ndim - 1)
    waves = (
        amplitude[:, k].reshape(-1, *extra) * np.cos(wave * angle + phase[:, k].reshape(-1, *extra))
        for k, wave in enumerate(_WAVES)
    )
    return np.asarray(sum(waves), dtype=np.float32)


def _angles() -> Field:
    return np.linspace(0.0, 2.0 * np.pi, _OUTLINE_POINTS, endpoint=False, dtype=np.float32)[None, :]


def _points(across: Column, along: Column, waves: Waves) -> tuple[Field, Field]:
    """Points of an outline about 0, x and y ``[B, P]``."""
    swell = 1.0 + _outline(_angles(), *waves)
    return swell * across[:, 0] * np.cos(_angles()), swell * along[:, 0] * np.sin(_angles())


def _uniform(rng: np.random.Generator, count: int, low: float, high: float) -> Column:
    return _column(rng.uniform(low, high, count))


def _column(values: "NDArray[np.generic] | pd.Series[Any]") -> Column:
    return np.asarray(values, dtype=np.float32)[:, None, None]
