"""Gradients of single patients through one layer, from what went into it and the gradient of what came out.

A layer sees rows: patients, or augmented copies of them, in attention and table, images in the encoder. The rows of a patient
are put together before anything is multiplied, so that the gradients of single rows are never held where weights are many.

Notation: ``B`` patients, ``R`` rows of a layer, ``L`` rows of the patient that has most.
"""

from dataclasses import dataclass

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torchvision.models.convnext import LayerNorm2d

KNOWN_LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding, nn.LayerNorm, nn.GroupNorm, LayerNorm2d)
# A patient's images of fewer places than this are unfolded; at more of them the copies cost more than a grouped convolution.
_FEW_PLACES = 64


@dataclass(frozen=True)
class Rows:
    """Whose the rows of a layer are: ``owners`` int64 ``[R]`` in 0..``patients`` - 1, in ascending order."""

    patients: int
    owners: Tensor

    @classmethod
    def of_copies(cls, patients: int, copies: int, *, device: torch.device) -> "Rows":
        """Rows that are the patients, or ``copies`` of each, one after the other."""
        return cls(patients, torch.arange(patients, device=device).repeat_interleave(copies))

    def put_together(self, values: Tensor) -> Tensor:
        """``values`` ``[R, ...]`` by patient ``[B, L, ...]``, zeros where a patient has fewer rows."""
        counts = self.owners.bincount(minlength=self.patients)  # [B]
        most = int(counts.max())
        if len(values) == self.patients * most:
            return values.reshape(self.patients, most, *values.shape[1:])
        place = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts)[self.owners]  # [R]
        together = values.new_zeros((self.patients, most, *values.shape[1:]))
        together[self.owners, place] = values
        return together

    def sums(self, values: Tensor) -> Tensor:
        """Sums of ``values`` ``[R, ...]`` over each patient's rows, ``[B, ...]``."""
        return values.new_zeros((self.patients, *values.shape[1:])).index_add_(0, self.owners, values)


def patient_gradients(layer: nn.Module, entered: Tensor, gradient: Tensor, rows: Rows) -> dict[Tensor, Tensor]:
    """Gradient of each patient's loss by the parameters of ``layer``, ``[B, *parameter.shape]`` each.

    Args:
        layer: one of ``KNOWN_LAYERS``.
        entered: what went into the layer, ``[R, ...]``.
        gradient: of all patients' summed loss by what came out of it, ``[R, ...]``.
        rows: whose the rows are.
    """
    if isinstance(layer, nn.Conv2d):
        return _through_convolution(layer, entered, gradient, rows)
    found: dict[Tensor, Tensor]
    if isinstance(layer, nn.GroupNorm):
        found = GradSampleHooks.GRAD_SAMPLERS[nn.GroupNorm](layer, [entered], gradient)
        return {parameter: rows.sums(of_rows) for parameter, of_rows in found.items()}
    if isinstance(layer, LayerNorm2d):
        entered, gradient = entered.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)  # [R, C, h, w] -> [R, h, w, C]
    # The others treat all dimensions but the first and the last alike: a patient's rows can be one of these.
    kind = nn.LayerNorm if isinstance(layer, nn.LayerNorm) else type(layer)
    found = GradSampleHooks.GRAD_SAMPLERS[kind](layer, [rows.put_together(entered)], rows.put_together(gradient))
    return found


def _through_convolution(layer: nn.Conv2d, entered: Tensor, gradient: Tensor, rows: Rows) -> dict[Tensor, Tensor]:
    """Over many places, all patients' gradients are that of one convolution whose groups are the patients, and whose batch is
    their images; over few, they are products of the unfolded images.

    Opacus 1.6 always unfolds, by strides that hold in the plain layout only, and is silently wrong for channels_last.
    """
    found: dict[Tensor, Tensor] = {}
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = rows.sums(gradient.sum(dim=(2, 3)))
    if not layer.weight.requires_grad:
        return found
    images, gradients = rows.put_together(entered), rows.put_together(gradient)  # [B, L, C, h, w]
    assert not isinstance(layer.padding, str)
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    if layer.groups == 1 and gradients[0, :, 0].numel() < _FEW_PLACES:
        unfolded = F.unfold(images.flatten(0, 1), layer.kernel_size, dilation, padding, stride)
        unfolded = unfolded.reshape(*images.shape[:2], *unfolded.shape[1:])
        weight = torch.einsum("blop,blip->boi", gradients.flatten(3), unfolded)  # [B, L, C, places] -> [B, out, in * k * k]
    else:
        # [B, L, C, h, w] -> [L, B * C, h, w]
        images, gradients = images.transpose(0, 1).flatten(1, 2), gradients.transpose(0, 1).flatten(1, 2)
        shape = (rows.patients * layer.out_channels, *layer.weight.shape[1:])
        groups = rows.patients * layer.groups
        weight = conv2d_weight(images, shape, gradients, stride, padding, dilation, groups)  # type: ignore[no-untyped-call]
    found[layer.weight] = weight.reshape(rows.patients, *layer.weight.shape)
    return found
