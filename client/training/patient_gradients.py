"""Gradients of single patients, clipped, and their sum: what differential privacy is made of.

All rows of a patient, images and augmented copies, become one gradient before it is clipped, so that the unit is the patient.
One pass forward and one backward serve all patients of a batch: every layer with weights is told the gradient of what it put
out, and the gradients of single patients follow (``layer_gradients``). The weights themselves are constants of that pass, so
that no gradient of the batch as a whole is computed besides.

Notation: ``B`` patients, ``K`` copies of each, ``R`` rows of a layer.
"""

import math
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from client.training.layer_gradients import KNOWN_LAYERS, Rows, patient_gradients
from shared_model.errors import FailureCode, RefusedError
from shared_model.inputs import PatientBatch
from shared_model.network import MultimodalNetwork, PatientNetwork
from shared_model.protocol_privacy import DifferentialPrivacy
from shared_model.tokens import ImageTokens

AUTOMATIC_STABILITY = 0.01  # gamma of Bu et al. 2023


class PatientGradients:
    """While the ``with`` block lasts, adds up clipped gradients of patients through ``network``, in training mode.

    Attributes:
        parameters: the trainable ones, all of them; ``total`` has their order.
        total: sum of the clipped gradients of the patients added since ``clear``, each shaped as its parameter. Whoever
            a patient is, leaving him or her out changes it by at most ``clip_norm`` (Euclidean, over all parameters).

    Raises:
        RefusedError: ``MODEL_REFUSED`` if a layer of the network mixes patients, as BatchNorm does, or is of an unknown kind.
    """

    def __init__(self, network: PatientNetwork, dp: DifferentialPrivacy) -> None:
        network.train()  # Opacus looks at a network in training only
        if problems := ModuleValidator.validate(network, strict=False):
            raise RefusedError(FailureCode.MODEL_REFUSED, f"no gradient of single patients can be had: {problems[0]}")
        self._layers = [layer for layer in network.modules() if any(p.requires_grad for p in layer.parameters(recurse=False))]
        if unknown := {type(layer).__name__ for layer in self._layers if not isinstance(layer, KNOWN_LAYERS)}:
            raise RefusedError(FailureCode.MODEL_REFUSED, f"no gradient of single patients can be had: {min(unknown)}")
        self.network = network
        self.dp = dp
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.total = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._found: dict[Tensor, Tensor] = {}

    def __enter__(self) -> Self:
        of_images = {layer for tokens in _image_tokens(self.network) for layer in tokens.encoder.modules()}
        self._handles = [tokens.register_forward_pre_hook(self._note_images) for tokens in _image_tokens(self.network)]
        for layer in self._layers:
            self._handles.append(layer.register_forward_hook(partial(self._note_layer, of_images=layer in of_images)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
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
        copies = self.dp.augmentation_multiplicity
        patients = len(batch) // copies
        self._patients = Rows.of_copies(patients, copies, device=batch.label.device)
        constant = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        logits = functional_call(self.network, constant, (batch,))  # [B * K]
        loss = binary_cross_entropy_with_logits(logits.float(), batch.label, reduction="sum") / copies
        loss.backward()  # type: ignore[no-untyped-call]
        # A layer that was not used, as where nobody in the batch has an image, has found nothing.
        gradients = [
            self._found.pop(parameter) if parameter in self._found else parameter.new_zeros((patients, *parameter.shape))
            for parameter in self.parameters
        ]
        for total, clipped in zip(self.total, clipped_sums(gradients, self.dp), strict=True):
            total.add_(clipped)

    def _note_images(self, tokens: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(tokens, ImageTokens)
        owners = tokens.shown(*inputs).nonzero()[:, 0]  # [images of the batch]
        self._images = Rows(self._patients.patients, owners // self.dp.augmentation_multiplicity)

    def _note_layer(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, of_images: bool) -> None:
        if not output.requires_grad:  # the first of its stream
            output.requires_grad_()
        rows = self._images if of_images else self._patients
        output.register_hook(partial(self._note_gradient, layer, inputs[0].detach(), rows))  # type: ignore[no-untyped-call]

    def _note_gradient(self, layer: nn.Module, entered: Tensor, rows: Rows, gradient: Tensor) -> None:
        with torch.no_grad():
            for parameter, found in patient_gradients(layer, entered, gradient, rows).items():
                self._found[parameter] = self._found[parameter] + found if parameter in self._found else found


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
