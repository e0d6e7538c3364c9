"""Gradients of single patients, clipped, and their sum: what differential privacy is made of.

Opacus gives gradients of rows: of patients in attention and table, but of images in the encoder. Here all rows of a patient,
and all augmented copies, become one gradient before it is clipped, so that the unit is the patient.

Notation: ``B`` patients, ``K`` copies of each, ``R`` rows of a layer.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.grad_sample.conv import compute_conv_grad_sample
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from shared_model.errors import FailureCode, RefusedError
from shared_model.inputs import PatientBatch
from shared_model.network import MultimodalNetwork, PatientNetwork
from shared_model.protocol_privacy import DifferentialPrivacy
from shared_model.tokens import ImageTokens

AUTOMATIC_STABILITY = 0.01  # gamma of Bu et al. 2023


def _in_plain_layout(layer: nn.Conv2d, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Opacus 1.6 unfolds by strides that hold in the plain layout only, and is silently wrong for channels_last."""
    plain = [activations[0].clone(memory_format=torch.contiguous_format)]
    gradients: dict[nn.Parameter, Tensor] = compute_conv_grad_sample(layer, plain, backprops.contiguous())
    return gradients


class _Hooks(GradSampleHooks):  # type: ignore[misc]
    GRAD_SAMPLERS = {**GradSampleHooks.GRAD_SAMPLERS, nn.Conv2d: _in_plain_layout}


class PatientGradients:
    """While the ``with`` block lasts, adds up clipped gradients of patients through ``network``, in training mode.

    Attributes:
        parameters: the trainable ones, all of them; ``total`` has their order.
        total: sum of the clipped gradients of the patients added since ``clear``, each shaped as its parameter. Whoever
            a patient is, leaving him or her out changes it by at most ``clip_norm`` (Euclidean, over all parameters).

    Raises:
        RefusedError: ``MODEL_REFUSED`` if a layer of the network mixes patients, as BatchNorm does.
    """

    def __init__(self, network: PatientNetwork, dp: DifferentialPrivacy) -> None:
        network.train()  # Opacus looks at a network in training only
        if problems := ModuleValidator.validate(network, strict=False):
            raise RefusedError(FailureCode.MODEL_REFUSED, f"no gradient of single patients can be had: {problems[0]}")
        self.network = network
        self.dp = dp
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.total = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._encoder = {id(parameter) for tokens in _image_tokens(network) for parameter in tokens.encoder.parameters()}
        self._owners: Tensor | None = None

    def __enter__(self) -> Self:
        self._hooks = _Hooks(self.network, loss_reduction="sum")
        self._handles = [tokens.register_forward_pre_hook(self._note_owners) for tokens in _image_tokens(self.network)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hooks.cleanup()
        for handle in self._handles:
            handle.remove()

    def clear(self) -> None:
        """Begin a new sum."""
        for total in self.total:
            total.zero_()

    def add(self, batch: PatientBatch) -> None:
        """Add the clipped gradients of the patients of ``batch``, ``B * K`` rows: the copies of a patient one after another.

        A patient with any value that is not finite adds nothing.
        """
        with _without_torch_s_remark():
            logits = self.network(batch)  # [B * K]
            binary_cross_entropy_with_logits(logits.float(), batch.label, reduction="sum").backward()  # type: ignore[no-untyped-call]
        gradients = [self._of_patients(parameter, rows=len(batch)) for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
        for total, clipped in zip(self.total, clipped_sums(gradients, self.dp), strict=True):
            total.add_(clipped)

    def _of_patients(self, parameter: nn.Parameter, *, rows: int) -> Tensor:
        """Gradient of each patient's loss, the mean of the copies' losses, ``[B, *parameter.shape]``."""
        copies = self.dp.augmentation_multiplicity
        patients = rows // copies
        sample: Tensor | None = getattr(parameter, "grad_sample", None)
        if sample is None:  # the layer was not used: nobody in the batch has an image
            return parameter.new_zeros((patients, *parameter.shape))
        if id(parameter) in self._encoder:
            assert self._owners is not None
            gathered = sample.new_zeros((patients, *parameter.shape))
            return gathered.index_add_(0, self._owners // copies, sample) / copies
        if copies == 1:
            return sample
        return sample.reshape(patients, copies, *parameter.shape).mean(dim=1)  # [B * K, ...] -> [B, ...]

    def _note_owners(self, tokens: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(tokens, ImageTokens)
        self._owners = tokens.shown(*inputs).nonzero()[:, 0]  # [images of the batch]


def clipped_sums(gradients: list[Tensor], dp: DifferentialPrivacy) -> list[Tensor]:
    """Sums over patients of their clipped ``gradients``, each ``[B, *shape]``; changes ``gradients``."""
    flat = [gradient.flatten(1) for gradient in gradients]  # [B, numel]
    norms = torch.stack([part.norm(dim=1) for part in flat], dim=1)  # [B, tensors]
    broken = ~norms.isfinite().all(dim=1)  # [B]
    if broken.any():
        norms[broken] = 0.0
        for part in flat:
            part[broken] = 0.0
    factors = _factors(norms, dp)  # [B, tensors]
    return [
        (factors[:, place] @ part).reshape(gradient.shape[1:])
        for place, (part, gradient) in enumerate(zip(flat, gradients, strict=True))
    ]


def _factors(norms: Tensor, dp: DifferentialPrivacy) -> Tensor:
    """What each patient's gradient of each tensor is multiplied with, ``[B, tensors]``, from its ``norms``."""
    if dp.clipping == "per_layer":
        share = dp.clip_norm / math.sqrt(norms.shape[1])
        return (share / norms.clamp(min=1e-12)).clamp(max=1.0)
    whole: Tensor = norms.norm(dim=1, keepdim=True)  # [B, 1]
    if dp.clipping == "automatic":
        return (dp.clip_norm / (whole + AUTOMATIC_STABILITY)).expand_as(norms)
    return (dp.clip_norm / whole.clamp(min=1e-12)).clamp(max=1.0).expand_as(norms)


def _image_tokens(network: PatientNetwork) -> list[ImageTokens]:
    if isinstance(network, MultimodalNetwork) and network.image_tokens is not None:
        return [network.image_tokens]
    return []


@contextmanager
def _without_torch_s_remark() -> Iterator[None]:
    """Torch remarks that layers whose input needs no gradient get none; it is so of every first layer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield
