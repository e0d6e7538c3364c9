import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.conv import compute_conv_grad_sample
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet, get_model, resnet18
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionTransformer
from torchvision.ops import StochasticDepth

from shared_model.encoders import VisionTransformer, build_encoder, group_norm
from shared_model.errors import ConfigurationError
from shared_model.pretrained import load_pretrained
from shared_model.protocol import Images, Network, Pretrained, View

ENCODERS = ["small", "resnet18", "efficientnet_b0", "resnet50", "convnext_tiny", "vit_b_16"]


def images(*, size: int = 32, lesion_mask: bool = False) -> Images:
    return Images(views={"only": View()}, size=size, lesion_mask=lesion_mask)


def network(**settings: Any) -> Network:
    return Network.model_validate(settings)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_runs_and_learns_from_grey_and_mask(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(images(lesion_mask=True), network(encoder=name))
    features = encoder(torch.rand(2, 2, 32, 32))
    assert features.shape[:2] == (2, encoder.features)
    assert features.std() > 0.0
    features.square().mean().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_takes_one_channel_and_each_image_by_itself(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(images(), network(encoder=name)).eval()
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm | nn.MultiheadAttention) for module in encoder.modules())
    pixels = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        together, alone = encoder(pixels), encoder(pixels[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 3, 8, 16, 24, 40, 64, 112, 144, 1280, 2048, 31])
def test_groups_divide_the_channels_and_hold_several(channels: int) -> None:
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert channels // groups > 1
    assert groups <= 32


def test_the_small_encoder_is_small() -> None:
    encoder = build_encoder(images(size=64), network(encoder="small"))
    assert 100_000 <= sum(parameter.numel() for parameter in encoder.parameters()) <= 350_000
    assert encoder(torch.zeros(1, 1, 64, 64)).shape == (1, 128, 4, 4)


@pytest.mark.parametrize(("name", "size"), [("convnext_tiny", 16), ("vit_b_16", 40)])
def test_a_size_that_does_not_suit_the_encoder_is_refused_by_name(name: str, size: int) -> None:
    with pytest.raises(ConfigurationError, match=r"images\.size[\s\S]*" + name):
        build_encoder(images(size=size), network(encoder=name))


def _sample_contiguous(
    layer: nn.Conv2d, activations: list[torch.Tensor], backprops: torch.Tensor
) -> dict[nn.Parameter, torch.Tensor]:
    """Opacus unfolds by strides that only hold in the plain layout; a 1 x 1 map may call itself contiguous in another."""
    plain = activations[0].clone(memory_format=torch.contiguous_format)
    gradients: dict[nn.Parameter, torch.Tensor] = compute_conv_grad_sample(layer, [plain], backprops)
    return gradients


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of layers whose input needs no gradient
@pytest.mark.parametrize("name", ["small", "resnet18", "efficientnet_b0", "convnext_tiny", "small vision transformer"])
def test_opacus_gradients_of_each_image_match_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GradSampleModule.GRAD_SAMPLERS, nn.Conv2d, _sample_contiguous)
    torch.manual_seed(0)
    if name == "small vision transformer":
        encoder: nn.Module = VisionTransformer(1, 32, width=16, heads=2, depth=2)
    else:
        encoder = build_encoder(images(), network(encoder=name))
    for module in encoder.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
        if isinstance(module, nn.Conv2d) and module.weight.shape[1:] == (1, 1, 1):
            nn.init.ones_(module.weight)  # ConvNeXt's 1e-6 would hide what the blocks do
    pixels = torch.rand(2, 1, 32, 32)
    direction = torch.randn(encoder(pixels).shape)
    expected = []
    for image, weight in zip(pixels.split(1), direction.split(1), strict=True):
        encoder.zero_grad()
        (encoder(image) * weight).sum().backward()
        expected.append([parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None])
    encoder.zero_grad()
    (GradSampleModule(encoder, loss_reduction="sum")(pixels) * direction).sum().backward()
    for row, gradients in enumerate(expected):
        for (parameter_name, parameter), gradient in zip(encoder.named_parameters(), gradients, strict=True):
            difference = (parameter.grad_sample[row] - gradient).norm()
            assert difference <= 1e-3 * gradient.norm() + 1e-4, parameter_name


def pretrained(path: Path, tensors: dict[str, torch.Tensor]) -> Pretrained:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return Pretrained(file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_resnet_weights_of_torchvision_load(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = resnet18(num_classes=7)  # with BatchNorm, RGB stem and classifier
    nn.init.uniform_(source.layer1[0].bn1.weight)
    weights = pretrained(tmp_path / "resnet18.safetensors", source.state_dict())
    trunk = build_encoder(images(lesion_mask=True), network(encoder="resnet18", pretrained=weights)).trunk.state_dict()
    assert torch.equal(trunk["layer4.1.conv2.weight"], source.layer4[1].conv2.weight)
    assert torch.equal(trunk["layer1.0.bn1.weight"], source.layer1[0].bn1.weight)
    rgb = torch.rand(1, 1, 16, 16).expand(-1, 3, -1, -1)
    grey = nn.functional.conv2d(rgb[:, :1], trunk["conv1.weight"][:, :1])
    assert torch.allclose(grey, nn.functional.conv2d(rgb, source.conv1.weight), atol=1e-5)
    assert not trunk["conv1.weight"][:, 1:].any()


def test_the_encoder_of_another_study_s_network_loads(tmp_path: Path) -> None:
    """As ``models/best.safetensors`` of a run holds it, with everything else."""
    torch.manual_seed(1)
    source = build_encoder(images(), network(encoder="small"))
    whole = {f"image_tokens.encoder.trunk.{name}": tensor for name, tensor in source.trunk.state_dict().items()}
    whole |= {"head.weight": torch.zeros(1, 64), "image_tokens.projection.weight": torch.zeros(64, 128)}
    weights = pretrained(tmp_path / "best.safetensors", whole)
    found = build_encoder(images(), network(encoder="small", pretrained=weights)).trunk.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in source.trunk.state_dict().items())
    with pytest.raises(ConfigurationError, match="conv1"):
        build_encoder(images(), network(encoder="resnet18", pretrained=weights))


def _stages(source: ResNet) -> nn.Sequential:
    return nn.Sequential(*list(source.children())[:-2])  # without average pooling and classifier


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0", "convnext_tiny"])
def test_encoders_compute_what_torchvisions_networks_do(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    norm = {} if name == "convnext_tiny" else {"norm_layer": group_norm}
    source = get_model(name, **norm).eval()
    for parameter_name, parameter in source.named_parameters():
        if parameter_name.endswith("layer_scale"):
            nn.init.uniform_(parameter)  # torchvision's 1e-6 would hide what the blocks do
    weights = pretrained(tmp_path / "weights.safetensors", source.state_dict())
    encoder = build_encoder(images(), network(encoder=name, pretrained=weights)).eval()
    grey = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        features = _stages(source) if isinstance(source, ResNet) else source.features
        expected = features(((grey - 0.25) / 0.2).expand(-1, 3, -1, -1))
        assert torch.allclose(encoder(grey), expected, atol=1e-4, rtol=1e-3)


def test_our_vision_transformer_computes_what_torchvisions_does(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = TorchvisionTransformer(
        image_size=48, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=128, num_classes=3
    ).eval()
    nn.init.normal_(source.class_token)
    nn.init.normal_(source.heads.head.weight)
    ours = VisionTransformer(1, 48, width=32, heads=4, depth=2).eval()
    load_pretrained(ours, pretrained(tmp_path / "vit.safetensors", source.state_dict()))
    grey = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        rgb = grey.expand(-1, 3, -1, -1)
        patches = torch.cat([source.class_token.expand(2, -1, -1), source._process_input(rgb)], dim=1)
        expected = source.encoder(patches)[:, 1:].reshape(2, 3, 3, 32).permute(0, 3, 1, 2)
        assert torch.allclose(ours(grey), expected, atol=1e-5)


def test_a_position_table_of_another_size_is_interpolated(tmp_path: Path) -> None:
    source = VisionTransformer(1, 64, width=8, heads=2, depth=1)
    with torch.no_grad():  # a ramp from left to right
        source.position.weight[1:] = torch.arange(4.0).repeat(4)[:, None].expand(-1, 8)
    stored = source.state_dict()
    stored["encoder.pos_embedding"] = stored.pop("position.weight")[None]
    weights = pretrained(tmp_path / "vit.safetensors", stored)
    target = VisionTransformer(1, 128, width=8, heads=2, depth=1)
    load_pretrained(target, weights)
    assert torch.equal(target.position.weight[0], source.position.weight[0])
    ramp = target.position.weight[1:, 0].detach().reshape(8, 8)
    assert torch.allclose(ramp, ramp[:1].expand(8, -1), atol=1e-5)
    assert (ramp[0].diff() > 0).all()
    assert ramp.mean() == pytest.approx(1.5, abs=1e-4)


def test_weights_of_an_earlier_small_encoder_load(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = build_encoder(images(), network())
    weights = pretrained(tmp_path / "small.safetensors", source.trunk.state_dict())
    target = build_encoder(images(), network(pretrained=weights))
    pixels = torch.rand(1, 1, 32, 32)
    assert torch.equal(source(pixels), target(pixels))


def test_the_file_may_hang_on_an_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = pretrained(tmp_path / "w.safetensors", build_encoder(images(), network()).trunk.state_dict())
    hanging = weights.model_copy(update={"file": "${CONSILIUM_TEST_WEIGHTS}/w.safetensors"})
    with pytest.raises(ConfigurationError, match="CONSILIUM_TEST_WEIGHTS is not set"):
        build_encoder(images(), network(pretrained=hanging))
    monkeypatch.setenv("CONSILIUM_TEST_WEIGHTS", str(tmp_path))
    build_encoder(images(), network(pretrained=hanging))


def test_another_hash_is_refused_before_the_file_is_used(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"not even safetensors")
    with pytest.raises(ConfigurationError, match="SHA-256 000"):
        build_encoder(images(), network(pretrained=Pretrained(file=str(path), sha256="0" * 64)))


def test_a_file_that_is_missing_or_no_safetensors_is_told_plainly(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(ConfigurationError, match="No such file"):
        build_encoder(images(), network(pretrained=Pretrained(file=str(path), sha256="0" * 64)))
    path.write_bytes(b"<html>")
    digest = hashlib.sha256(b"<html>").hexdigest()
    with pytest.raises(ConfigurationError, match="a safetensors file"):
        build_encoder(images(), network(pretrained=Pretrained(file=str(path), sha256=digest)))


def test_missing_unexpected_and_misshapen_keys_are_all_told_at_once(tmp_path: Path) -> None:
    tensors = dict(build_encoder(images(), network()).trunk.state_dict())
    del tensors["1.shortcut.0.weight"]
    tensors["0.1.weight"] = torch.zeros(5)
    tensors["surprise"] = torch.zeros(1)
    with pytest.raises(ConfigurationError) as caught:
        build_encoder(images(), network(pretrained=pretrained(tmp_path / "w.safetensors", tensors)))
    assert {fault.key for fault in caught.value.faults} == {"1.shortcut.0.weight", "0.1.weight", "surprise"}
