"""Ultrasound pictures made comparable (NumPy, once a picture), and changed at random in training (torch, on the device).

Standardisation takes out what the operator and the scanner's settings added, and leaves speckle alone: every step is a
monotone map of grey levels, the same for all of a depth. Histogram equalisation is not offered, for it also takes out
how dark a lesion is beside its surroundings, which is what readers go by.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from shared_model.protocol import Augmentation, Intensity

Grey = NDArray[np.uint8]
Inside = NDArray[np.bool_]
Levels = NDArray[np.float64]

_FLAT = 4  # grey levels within which JPEG leaves a uniform surround
_NARROWEST = 12  # text, rulers and grey bars are narrower than this part of the longer side, fields are wider
_SMALLEST = 0.05  # of the picture's area: less is no field of view
_BLACK, _WHITE = 1.0, 99.0  # percentiles
_MEDIAN = 0.3  # grey, 0..1, to which the median is brought: about what DDTI and BUS-BRA have after "range"
_DEPTHS = 8  # time gain is smooth over this part of the field
_LARGEST_POWER = 2.0
_DRAWS = 9


@dataclass(frozen=True, eq=False)
class FieldOfView:
    """Where a picture shows the body: ``box`` is x0, y0, x1, y1 in pixels, ``inside`` bool ``[H, W]`` of the whole picture."""

    box: tuple[int, int, int, int]
    inside: Inside


def find_field(pixels: Grey) -> FieldOfView:
    """The field of view of ``pixels`` (grey levels, uint8 ``[H, W]``), of whatever shape and before whatever uniform surround.

    Speckle makes every pixel of the field differ from its neighbours, while the surround is flat. Text, rulers and grey
    bars are not flat either, but narrow. The largest area that is neither is the field, its holes included; two fields
    side by side that touch are one. Where there is none, the whole picture is.
    """
    height, width = pixels.shape
    narrowest = max(1, max(height, width) // _NARROWEST)
    textured: Inside = ndimage.morphological_gradient(pixels, size=3) > _FLAT
    dense = ndimage.uniform_filter(textured.astype(np.float32), size=max(1, narrowest // 4)) > 0.5
    inside: Inside = ndimage.binary_fill_holes(_largest_area(_opened(dense, narrowest)))
    if inside.sum() < _SMALLEST * pixels.size:
        return FieldOfView((0, 0, width, height), np.ones_like(textured))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return FieldOfView((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), inside)


def harmonize(pixels: Grey, *, intensity: Intensity, inside: Inside | None = None) -> Grey:
    """Grey levels uint8 ``[H, W]`` with the scanner's settings taken out, each step on top of those before.

    Args:
        pixels: grey levels, uint8 ``[H, W]``; rows are depth.
        intensity: ``"none"``; ``"range"``: percentiles 1 and 99 become black and white (dynamic range and gain);
            ``"gamma"``: a power then brings the median to 0.3 of white, the third landmark (after Nyul and Udupa,
            Magn Reson Med 1999;42:1072); ``"depth"``: before it, a power for each row brings the smooth mean of its depth
            to that of the field (time gain). A power, since time gain acts before logarithmic compression: on the screen it
            adds to the grey levels, but not to black. Powers are between 1/2 and 2.
        inside: bool ``[H, W]``, which pixels count; None: all.

    Returns:
        A new array, or ``pixels`` itself where there is nothing to do: ``"none"``, or hardly any contrast.
    """
    inside = np.ones(pixels.shape, dtype=bool) if inside is None or not inside.any() else inside
    if intensity == "none":
        return pixels
    black, white = np.percentile(pixels[inside], [_BLACK, _WHITE])
    if white - black <= _FLAT:
        return pixels
    levels = np.clip((pixels - black) / (white - black), 0.0, 1.0)
    if intensity == "depth":
        levels **= _power(_depth_profile(levels, inside), to=levels[inside].mean())[:, None]
    if intensity in {"gamma", "depth"}:
        levels **= _power(np.median(levels[inside]), to=_MEDIAN)
    result: Grey = np.rint(levels * 255.0).astype(np.uint8)
    return result


def _largest_area(area: Inside) -> Inside:
    """The largest connected part of ``area``; nothing of nothing."""
    parts, _ = ndimage.label(area, structure=np.ones((3, 3), dtype=bool))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((parts == sizes.argmax()) & area)


def _opened(area: Inside, size: int) -> Inside:
    """``area`` without what is narrower than ``size``; the edge of the picture does not count as an edge."""
    kept: Inside = ndimage.minimum_filter(area, size=size, mode="nearest")
    # The mirrored origin puts a square of even size back where it was.
    opened: Inside = ndimage.maximum_filter(kept, size=size, mode="nearest", origin=0 if size % 2 else -1)
    return opened


def _depth_profile(levels: Levels, inside: Inside) -> Levels:
    """Mean grey of each depth, ``[H]``, smooth along the depth."""
    spread = inside.shape[0] / _DEPTHS
    sums = ndimage.gaussian_filter1d(np.where(inside, levels, 0.0).sum(axis=1), spread)
    counts = ndimage.gaussian_filter1d(inside.sum(axis=1, dtype=np.float64), spread)
    return np.asarray(sums / np.maximum(counts, 1e-9))


def _power(grey: Levels | np.floating, *, to: float) -> Levels:
    """The exponents that bring ``grey`` (0..1) to ``to``, within bounds."""
    wanted = math.log(to) / np.log(np.clip(grey, 1e-3, 1.0 - 1e-3))
    return np.asarray(np.clip(wanted, 1.0 / _LARGEST_POWER, _LARGEST_POWER))


@torch.no_grad()
def augment(images: Tensor, *, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Change ``images`` ``[B, V, C, H, W]`` in 0..1 at random; one draw for all images of a patient.

    Geometry changes every channel, intensity only the grey level (channel 0). Every intensity change keeps black
    black, so that the surround of the ultrasound field and empty slots stay as they were.

    Args:
        images: on any device.
        augmentation: ``rotate_degrees`` and ``shift`` (a share of the image's side) are the largest change either way;
            ``scale`` and ``gamma`` draw a factor or exponent between 1 / (1 + x) and 1 + x; ``brightness`` a factor
            between 1 - x and 1 + x; ``contrast`` likewise, about the image's mean; ``noise`` the standard deviation of
            multiplicative noise between 0 and x.
        generator: of the CPU; the same state gives the same changes.

    Returns:
        New images of the same shape in 0..1, or ``images`` itself if nothing is to change.
    """
    if augmentation == Augmentation() or images.numel() == 0:
        return images
    # Every change has its own column, so that switching one on leaves what the others draw as it was.
    draws = torch.rand(len(images), _DRAWS, generator=generator).to(images)  # [B, 9]
    flip, noise = draws[:, 0], draws[:, 1]
    angle, zoom, right, down, brightness, contrast, gamma = (2.0 * draws[:, 2:] - 1.0).unbind(dim=1)  # each [B], -1..1
    noise_generator = torch.Generator(images.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))

    if augmentation.flip:
        images = torch.where(_per_patient(flip < 0.5), images.flip(-1), images)
    if augmentation.rotate_degrees or augmentation.scale or augmentation.shift:
        images = _resample(
            images,
            angle=angle * math.radians(augmentation.rotate_degrees),
            zoom=(1.0 + augmentation.scale) ** zoom,
            shift=augmentation.shift * torch.stack([right, down], dim=1),
        )
    grey = images[:, :, :1]
    if augmentation.brightness:
        grey = grey * (1.0 + augmentation.brightness * _per_patient(brightness))
    if augmentation.contrast:
        mean = grey.mean(dim=(-2, -1), keepdim=True)
        stretched = mean + (grey - mean) * (1.0 + augmentation.contrast * _per_patient(contrast))
        grey = torch.where(grey > 0.0, stretched, grey)
    if augmentation.gamma:
        grey = grey.clamp(0.0, 1.0) ** ((1.0 + augmentation.gamma) ** _per_patient(gamma))
    if augmentation.noise:
        normal = torch.randn(grey.shape, generator=noise_generator, device=grey.device, dtype=grey.dtype)
        grey = grey * (1.0 + augmentation.noise * _per_patient(noise) * normal)
    return torch.cat([grey, images[:, :, 1:]], dim=2).clamp(0.0, 1.0)


def _per_patient(values: Tensor) -> Tensor:
    return values[:, None, None, None, None]  # [B] -> [B, 1, 1, 1, 1]


def _resample(images: Tensor, *, angle: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Rotate by ``angle`` ``[B]`` radians, magnify by ``zoom`` ``[B]``, move by ``shift`` ``[B, 2]`` sides; black outside."""
    slots = images.shape[1]
    cosine, sine = torch.cos(angle), torch.sin(angle)
    # affine_grid asks where an output pixel comes from, hence the inverse of the change.
    inverse = torch.stack([cosine, sine, -sine, cosine], dim=1).reshape(-1, 2, 2) / zoom[:, None, None]  # [B, 2, 2]
    offset = -inverse @ (2.0 * shift)[:, :, None]
    theta = torch.cat([inverse, offset], dim=2).repeat_interleave(slots, dim=0)  # [B * V, 2, 3]
    flat = images.flatten(0, 1)  # [B * V, C, H, W]
    grid = F.affine_grid(theta, list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False).reshape(images.shape)
