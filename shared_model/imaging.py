"""Random changes of training images, on the device that holds them."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from shared_model.protocol import Augmentation

_DRAWS = 9


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
