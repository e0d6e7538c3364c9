"""Image encoders: pixels to a feature map.

Every encoder computes each image by itself (GroupNorm and LayerNorm, never BatchNorm) and changes no tensor in place, so
that Opacus can take gradients image by image. (Opacus 1.6 is silently wrong for convolutions whose input is laid out as
channels_last, as ConvNeXt's is: whoever uses it copies the input to the plain layout first, as test_encoders.py does.)
Parameters are named as torchvision names them, so that its weights load.

Notation: ``M`` images, ``C`` channels, ``S`` = ``Images.size`` pixels, ``D`` features, ``h`` x ``w`` the feature map.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import EfficientNet, ResNet, convnext_tiny
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import MBConv, MBConvConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

from shared_model.errors import ConfigurationError, Fault
from shared_model.fusion import NORM_EPSILON, JointBlock
from shared_model.pretrained import load_pretrained
from shared_model.protocol import Encoder, Images, Network

# Mean and standard deviation of grey ultrasound in 0..1 (breast and thyroid), and of a half-filled mask.
_INTENSITY = {"mean": (0.25, 0.5), "scale": (0.2, 0.5)}
_PATCH = 16


class ImageEncoder(nn.Module):
    """Standardised intensities, then a convolutional or transformer ``trunk``.

    Attributes:
        features: channels ``D`` of the feature map.
    """

    def __init__(self, trunk: nn.Module, *, channels: int, features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.features = features
        self.intensity = _Standardize(channels)

    def forward(self, images: Tensor) -> Tensor:
        """``images`` ``[M, C, S, S]`` in 0..1 -> feature map ``[M, D, h, w]``."""
        features: Tensor = self.trunk(self.intensity(images))
        return features


def build_encoder(images: Images, network: Network) -> ImageEncoder:
    """The encoder that ``network`` names, for ``images``; random weights come from torch's global generator.

    Raises:
        ConfigurationError: the images' size does not suit the encoder, or its pretrained weights cannot be had.
    """
    _check_size(images.size, encoder=network.encoder)
    trunk, features = _TRUNKS[network.encoder](images.channels, images.size)
    for module in trunk.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 (nn.Module declares no such attribute)
    if network.pretrained:
        load_pretrained(trunk, network.pretrained)
    return ImageEncoder(trunk, channels=images.channels, features=features)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with at most 32 groups of at least 4 channels where ``channels`` can be divided so.

    >>> group_norm(64).num_groups, group_norm(1280).num_groups, group_norm(24).num_groups
    (16, 32, 6)
    """
    return nn.GroupNorm(max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= 4)), channels)


class _Standardize(nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, values in _INTENSITY.items():
            self.register_buffer(name, torch.tensor(values[:channels])[:, None, None], persistent=False)  # [C, 1, 1]

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.scale


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the first of stride 2, beside a strided 1x1 one."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, features, 3, stride=2, padding=1, bias=False),
            group_norm(features),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1, bias=False),
            group_norm(features),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels, features, 1, stride=2, bias=False), group_norm(features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.residual(x))


def _small(channels: int, size: int) -> tuple[nn.Module, int]:
    stem = nn.Sequential(nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False), group_norm(16), nn.ReLU())
    return nn.Sequential(stem, _ResidualBlock(16, 32), _ResidualBlock(32, 64), _ResidualBlock(64, 128)), 128


class _BasicBlock(BasicBlock):  # type: ignore[misc]
    """torchvision's block, which adds in place, without that."""

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return torch.relu(residual + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's block, which adds in place, without that."""

    def forward(self, x: Tensor) -> Tensor:
        narrow: Tensor = self.relu(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(narrow)))))
        return torch.relu(residual + (x if self.downsample is None else self.downsample(x)))


def _resnet(block: type[nn.Module], depths: list[int], features: int) -> Callable[[int, int], tuple[nn.Module, int]]:
    def trunk(channels: int, size: int) -> tuple[nn.Module, int]:
        layers = OrderedDict(ResNet(block, depths, norm_layer=group_norm).named_children())
        layers["conv1"] = _stem(layers["conv1"], channels)
        del layers["avgpool"], layers["fc"]
        return nn.Sequential(layers), features

    return trunk


class _MBConv(MBConv):  # type: ignore[misc]
    """torchvision's block, which adds in place, without that."""

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.block(x)
        return self.stochastic_depth(residual) + x if self.use_res_connect else residual


# EfficientNet-B0 (Tan and Le 2019): expansion, kernel, stride, channels in and out, layers.
_EFFICIENTNET_B0 = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


def _efficientnet_b0(channels: int, size: int) -> tuple[nn.Module, int]:
    settings = [MBConvConfig(*row, block=_MBConv) for row in _EFFICIENTNET_B0]
    features = EfficientNet(settings, dropout=0.0, norm_layer=group_norm).features
    features[0][0] = _stem(features[0][0], channels)
    return nn.Sequential(OrderedDict(features=features)), 1280


class _ConvNeXtBlock(CNBlock):  # type: ignore[misc]
    """torchvision's block with its channel scale as a depthwise convolution, a layer whose per-patient gradient is known."""

    def __init__(
        self, dim: int, layer_scale: float, stochastic_depth_prob: float, norm_layer: Callable[..., nn.Module] | None = None
    ) -> None:
        super().__init__(dim, layer_scale, stochastic_depth_prob, norm_layer)
        del self.layer_scale
        self.add_module("layer_scale", nn.Conv2d(dim, dim, 1, groups=dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.stochastic_depth(self.layer_scale(self.block(x)))
        return residual + x


def _convnext_tiny(channels: int, size: int) -> tuple[nn.Module, int]:
    features = convnext_tiny(block=_ConvNeXtBlock).features
    features[0][0] = _stem(features[0][0], channels)
    for module in features.modules():
        if isinstance(module, _ConvNeXtBlock):
            nn.init.constant_(module.layer_scale.weight, 1e-6)  # torchvision has drawn every convolution's weights by now
    return nn.Sequential(OrderedDict(features=features)), 768


class VisionTransformer(nn.Module):
    """ViT-B/16 (Dosovitskiy et al. 2021) of our own attention blocks; the class token takes part and is left out at the end."""

    def __init__(self, channels: int, size: int, *, width: int = 768, heads: int = 12, depth: int = 12) -> None:
        super().__init__()
        self.side = size // _PATCH
        self.conv_proj = nn.Conv2d(channels, width, _PATCH, stride=_PATCH)
        self.class_token = nn.Embedding(1, width)
        self.position = nn.Embedding(1 + self.side**2, width)
        self.layers = nn.ModuleList(JointBlock(width, heads=heads, dropout=0.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        nn.init.zeros_(self.class_token.weight)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """``images`` ``[M, C, S, S]`` -> ``[M, D, S/16, S/16]``."""
        count, device = len(images), images.device
        patches = self.conv_proj(images).permute(0, 2, 3, 1).flatten(1, 2)  # [M, D, h, w] -> [M, h * w, D]
        # Looked up once for each image: so the layers' per-patient gradients can be told apart.
        class_token = self.class_token(torch.zeros(count, 1, dtype=torch.int64, device=device))
        position = self.position(torch.arange(self.position.num_embeddings, device=device).expand(count, -1))
        tokens = torch.cat([class_token, patches], dim=1) + position
        for layer in self.layers:
            tokens = layer(tokens)
        features: Tensor = self.norm(tokens[:, 1:])
        return features.reshape(count, self.side, self.side, -1).permute(0, 3, 1, 2)


def _vit_b_16(channels: int, size: int) -> tuple[nn.Module, int]:
    return VisionTransformer(channels, size), 768


def _stem(conv: nn.Module, channels: int) -> nn.Conv2d:
    """A convolution like ``conv`` that takes ``channels``."""
    assert isinstance(conv, nn.Conv2d)
    return nn.Conv2d(
        channels,
        conv.out_channels,
        kernel_size=conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )


_TRUNKS: dict[Encoder, Callable[[int, int], tuple[nn.Module, int]]] = {
    "small": _small,
    "resnet18": _resnet(_BasicBlock, [2, 2, 2, 2], 512),
    "resnet50": _resnet(_Bottleneck, [3, 4, 6, 3], 2048),
    "convnext_tiny": _convnext_tiny,
    "efficientnet_b0": _efficientnet_b0,
    "vit_b_16": _vit_b_16,
}


def _check_size(size: int, *, encoder: Encoder) -> None:
    if encoder == "convnext_tiny" and size < 32:
        expected = "32 or more for convnext_tiny, which halves an image five times"
    elif encoder == "vit_b_16" and size % _PATCH:
        expected = f"a multiple of {_PATCH} for vit_b_16, which cuts an image into patches of that size"
    else:
        return
    raise ConfigurationError([Fault("study protocol", "images.size", str(size), expected, "change images.size")])
