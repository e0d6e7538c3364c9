"""Where in its pictures a patient's logit comes from, view by view.

Each method gives a map ``[B, V, H, W]`` that is larger where the network reacts more in the ``direction`` asked for: 1 for what
raises the logit, -1 for what lowers it. Empty slots are 0. Integrated gradients and occlusion are signed and in logits;
Grad-CAM is not negative and of any scale; attention rollout knows no direction.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from shared_model.attribution.frozen import Frozen
from shared_model.attribution.rollout import attention_rollout
from shared_model.inputs import PatientBatch
from shared_model.network import MultimodalNetwork

Method = Literal["grad_cam", "grad_cam_plus_plus", "integrated_gradients", "occlusion", "attention_rollout"]
METHODS: tuple[Method, ...] = get_args(Method)

_SMALLEST_MAP = 7  # places a side: a coarser layer could not tell a lesion from its rim
_GRADIENT_STEPS = 10
_WINDOW = 4  # a side of the picture over a side of what is occluded, which moves by three quarters of its own side
_BLUR = 8  # a side of the picture over the blur's standard deviation


def picture_map(network: MultimodalNetwork, batch: PatientBatch, method: Method, *, direction: Tensor) -> Tensor:
    """The map of ``method``, float ``[B, V, H, W]``; ``direction`` ``[B]`` is 1 or -1."""
    network.eval()
    if method == "occlusion":
        return occlusion(network, batch) * direction[:, None, None, None]
    if method == "integrated_gradients":
        return _integrated_gradients(network, batch) * direction[:, None, None, None]
    if method == "attention_rollout":
        grid = attention_rollout(network, batch).pictures  # [B, V, G, G]
        return _upsampled(grid, batch.images.shape[-1])
    return _grad_cam(network, batch, direction=direction, plus_plus=method == "grad_cam_plus_plus")


def shown(network: MultimodalNetwork, batch: PatientBatch) -> Tensor:
    """Slots whose picture the network looks at, bool ``[B, V]``."""
    assert network.image_tokens is not None
    present = network.present(batch)
    return network.image_tokens.shown(batch, present[:, : len(network.image_tokens.modalities)])


def blurred(images: Tensor) -> Tensor:
    """``images`` ``[..., C, H, W]`` without detail: the grey level blurred by an eighth of its side, other channels kept."""
    side = images.shape[-1]
    kernel = 2 * (3 * side // (2 * _BLUR)) + 1
    flat = images.flatten(0, -4)
    grey = gaussian_blur(flat[:, :1], [kernel, kernel], [side / _BLUR, side / _BLUR]) if len(flat) else flat[:, :1]
    return torch.cat([grey, flat[:, 1:]], dim=1).reshape(images.shape)


@torch.no_grad()
def occlusion(network: MultimodalNetwork, batch: PatientBatch) -> Tensor:
    """How much the logit falls when a window of one picture is blurred; each pixel the mean over the windows that hold it.

    The same as ``captum.attr.Occlusion`` of one slot at a time, but only the changed picture is encoded again.
    """
    assert network.image_tokens is not None
    frozen, visible = Frozen.of(network, batch), shown(network, batch)
    side = batch.images.shape[-1]
    window, step = max(4, side // _WINDOW), max(3, 3 * side // (4 * _WINDOW))
    whole, smooth = frozen.logits(), blurred(batch.images)
    result, times = torch.zeros_like(batch.images[:, :, 0]), torch.zeros(side, side, device=whole.device)
    for top in range(0, side - window + 1, step):
        for left in range(0, side - window + 1, step):
            place = (slice(top, top + window), slice(left, left + window))
            changed = batch.images.clone()
            changed[..., place[0], place[1]] = smooth[..., place[0], place[1]]
            features = network.image_tokens.encode(changed, visible)  # [B, V, G * G, features]
            times[place] += 1.0
            for slot in range(visible.shape[1]):
                pictures = frozen.contents[0].clone()
                pictures[:, slot] = features[:, slot]
                fall = whole - frozen.logits(pictures=pictures)  # [B]
                result[:, slot, place[0], place[1]] += fall[:, None, None]
    return torch.where(visible[:, :, None, None], result / times.clamp(min=1.0), 0.0)


def _integrated_gradients(network: MultimodalNetwork, batch: PatientBatch) -> Tensor:
    """From the blurred pictures to the pictures; summed over channels."""
    if not shown(network, batch).any():
        return torch.zeros_like(batch.images[:, :, 0])
    images = batch.images.detach().requires_grad_(True)
    rows = torch.arange(len(batch), device=images.device)
    present = network.present(batch)
    light = Frozen.of(network, batch)

    def forward(pixels: Tensor, members: Tensor) -> Tensor:
        assert network.image_tokens is not None
        own = present[members]
        visible = shown(network, batch)[members]
        features = network.image_tokens.encode(pixels, visible)
        return light.logits(rows=members, pictures=features, modalities=own)

    method = IntegratedGradients(forward, multiply_by_inputs=True)
    found: Tensor = method.attribute(
        images,
        blurred(batch.images),
        additional_forward_args=rows,
        n_steps=_GRADIENT_STEPS,
        internal_batch_size=32 * len(batch),
    )
    return found.sum(dim=2).detach()


def _grad_cam(network: MultimodalNetwork, batch: PatientBatch, *, direction: Tensor, plus_plus: bool) -> Tensor:
    """Grad-CAM (Selvaraju 2017) or Grad-CAM++ (Chattopadhay 2018) at the deepest layer that still has 7 places a side."""
    assert network.image_tokens is not None
    visible = shown(network, batch)
    if not visible.any():
        return torch.zeros_like(batch.images[:, :, 0])
    # Where no parameter of the encoder is trained, gradients reach its layers only if they are on the way to the pictures.
    pictures = batch.images.detach().requires_grad_(True)
    with _outputs(network.image_tokens.encoder.trunk) as layers:
        logits = network(batch.with_images(pictures))
    features = next((layer for layer in reversed(layers) if layer.shape[2] >= _SMALLEST_MAP), layers[-1])  # [M, D, h, w]
    (gradient,) = torch.autograd.grad((logits * direction).sum(), features)
    features = features.detach()
    weight = _plus_plus(features, gradient) if plus_plus else gradient.mean(dim=(2, 3), keepdim=True)
    maps = torch.relu((weight * features).sum(dim=1))  # [M, h, w]
    result = maps.new_zeros(*visible.shape, *maps.shape[1:]).masked_scatter(visible[:, :, None, None], maps)
    return _upsampled(result, batch.images.shape[-1])


def _plus_plus(features: Tensor, gradient: Tensor) -> Tensor:
    """Weights of the channels, ``[M, D, 1, 1]``: of an exponential score, whose higher derivatives are powers of the first."""
    square, cube = gradient.square(), gradient.pow(3)
    below = 2.0 * square + (features * cube).sum(dim=(2, 3), keepdim=True)
    share = square / torch.where(below == 0.0, 1.0, below)
    return (share * torch.relu(gradient)).sum(dim=(2, 3), keepdim=True)


@contextmanager
def _outputs(trunk: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what the parts of ``trunk`` give out, in order; of a trunk that is no sequence, what it gives out itself."""
    parts = list(trunk) if isinstance(trunk, nn.Sequential) else [trunk]
    seen: list[Tensor] = []

    def record(_: nn.Module, __: object, output: Tensor) -> None:
        seen.append(output)

    hooks = [part.register_forward_hook(record) for part in parts]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _upsampled(grid: Tensor, side: int) -> Tensor:
    if grid.shape[1] == 0:
        return grid.new_zeros(*grid.shape[:2], side, side)
    return F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
