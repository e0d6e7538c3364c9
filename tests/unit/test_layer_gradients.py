"""Gradients of single patients through one layer, against autograd one patient at a time, in double precision."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from client.training.layer_gradients import KNOWN_LAYERS, Rows, patient_gradients

OWNERS = {
    "patients": torch.arange(4),
    "two copies of each": torch.arange(4).repeat_interleave(2),
    "images of some": torch.tensor([0, 1, 1, 1, 3, 3]),
    "one patient's": torch.tensor([2, 2]),
}
CONVOLUTIONS = {
    "3x3": nn.Conv2d(3, 4, 3, padding=1),
    "strided": nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
    "strided 1x1": nn.Conv2d(3, 4, 1, stride=2, bias=False),
    "a place left over": nn.Conv2d(3, 2, (2, 4), stride=3),
    "dilated": nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "patches": nn.Conv2d(3, 4, 4, stride=4),
    "depthwise": nn.Conv2d(6, 6, 5, padding=2, groups=6),
    "groups": nn.Conv2d(6, 4, 3, padding=1, groups=2),
    "scale of channels": nn.Conv2d(6, 6, 1, groups=6, bias=False),
    "frozen weight": nn.Conv2d(3, 4, 3, padding=1),
}
CONVOLUTIONS["frozen weight"].weight.requires_grad_(False)
OTHERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(5, 3), (5,)),
    "linear of tokens": (nn.Linear(5, 3, bias=False), (7, 5)),
    "linear of maps": (nn.Linear(5, 3), (2, 4, 5)),
    "layer norm": (nn.LayerNorm(5), (5,)),
    "layer norm of tokens": (nn.LayerNorm(5), (7, 5)),
    "layer norm of channels": (LayerNorm2d(6), (6, 3, 4)),
    "group norm": (nn.GroupNorm(3, 6), (6, 3, 4)),
}


def check(layer: nn.Module, entered: Tensor, owners: Tensor) -> None:
    layer = layer.double()
    out = layer(entered)
    direction = torch.randn_like(out)
    found = patient_gradients(layer, entered, direction, Rows(4, owners))
    trainable = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    assert set(found) == set(trainable)
    for patient in range(4):
        mine = owners == patient
        loss = (layer(entered[mine]) * direction[mine]).sum() if mine.any() else None
        for parameter in trainable:
            wanted = torch.zeros_like(parameter) if loss is None else torch.autograd.grad(loss, parameter, retain_graph=True)[0]
            torch.testing.assert_close(found[parameter][patient], wanted, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize("side", [5, 16], ids=["few places", "many places"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(layer: nn.Conv2d, layout: torch.memory_format, side: int, owners: Tensor) -> None:
    torch.manual_seed(0)
    images = torch.randn(len(owners), layer.in_channels, side, side, dtype=torch.float64)
    check(layer, images.contiguous(memory_format=layout), owners)


@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize(("layer", "shape"), OTHERS.values(), ids=OTHERS)
def test_linear_and_norms(layer: nn.Module, shape: tuple[int, ...], owners: Tensor) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    check(layer, torch.randn(len(owners), *shape, dtype=torch.float64), owners)


@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_embedding(shape: tuple[int, ...], owners: Tensor) -> None:
    torch.manual_seed(0)
    check(nn.Embedding(4, 5), torch.randint(4, (len(owners), *shape)), owners)


def test_every_known_layer_is_tried_here() -> None:
    tried = {type(layer) for layer, _ in OTHERS.values()} | {nn.Conv2d, nn.Embedding}
    assert tried == set(KNOWN_LAYERS)
