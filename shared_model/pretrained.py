"""Weights that an encoder starts from, in a safetensors file that every site holds: torchvision's own, or the whole network of
another study's run, of which the encoder is taken."""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from shared_model.config_file import expand
from shared_model.errors import ConfigurationError, Fault
from shared_model.protocol import Pretrained

# The classifier on top, and BatchNorm's running statistics: GroupNorm takes its affine weights and has no others.
_IGNORED = re.compile(r"^(fc|classifier|heads)\.|\.(running_mean|running_var|num_batches_tracked)$")
# torchvision's vision transformer -> ours.
_VIT_NAMES = (
    (re.compile(r"^class_token$"), "class_token.weight"),
    (re.compile(r"^encoder\.pos_embedding$"), "position.weight"),
    (re.compile(r"^encoder\.ln\."), "norm."),
    (re.compile(r"^encoder\.layers\.encoder_layer_(\d+)\."), r"layers.\1."),
    (re.compile(r"\.ln_1\."), ".attention_norm."),
    (re.compile(r"\.ln_2\."), ".mlp_norm."),
    (re.compile(r"\.self_attention\.out_proj\."), ".attention.output."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
_IN_NETWORK = "image_tokens.encoder.trunk."
_PROJECTION, _TABLE = "image_tokens.projection.", "table_tokens."
_REMEDY = "use weights of the encoder that network.encoder names"
_REMEDY_OF_PICTURES = 'use a run of network.kind = "image_only" with the same views and sizes, or a file of the encoder alone'
_JOINT_PROJECTION = re.compile(r"^(.*)\.self_attention\.in_proj_(weight|bias)$")


def load_pretrained(trunk: nn.Module, pretrained: Pretrained) -> None:
    """Write the weights of ``pretrained`` into ``trunk``.

    The kernels of an RGB stem are summed for the grey level, as if it were shown three times, and a further channel (the
    lesion mask) begins at zero. A position table of another size is interpolated.

    Raises:
        ConfigurationError: no such file, another SHA-256, no safetensors, or keys or shapes other than the trunk's.
    """
    own = trunk.state_dict()
    stored = _rename(_of_encoder(_read(pretrained)))
    adapted = {key: _adapt(tensor, own[key]) if key in own else tensor for key, tensor in stored.items()}
    if faults := _mismatches(adapted, own, file=pretrained.file, remedy=_REMEDY):
        raise ConfigurationError(faults)
    trunk.load_state_dict(adapted)


def load_pictures(network: nn.Module, pretrained: Pretrained) -> None:
    """Write into ``network`` all that another study's run on pictures has learned of them: encoder, tokens, attention, norm and
    head. A file of an encoder alone has no more than that, and changes nothing here.

    Raises:
        ConfigurationError: as ``load_pretrained``; a run of a network of other sizes.
    """
    stored = {name: tensor for name, tensor in _read(pretrained).items() if not name.startswith(_TABLE)}
    if not any(name.startswith(_PROJECTION) for name in stored):
        return
    if faults := _mismatches(stored, network.state_dict(), file=pretrained.file, remedy=_REMEDY_OF_PICTURES):
        raise ConfigurationError(faults)
    network.load_state_dict(stored)


def _read(pretrained: Pretrained) -> dict[str, Tensor]:
    text, unset = expand(pretrained.file)
    if unset:
        raise _error(text, f"environment variable {', '.join(unset)} is not set", "a path", f"set {', '.join(unset)}")
    try:
        content = Path(text).read_bytes()
    except OSError as error:
        raise _error(text, str(error), "a readable safetensors file", "put the study's weights there") from None
    if (found := hashlib.sha256(content).hexdigest()) != pretrained.sha256:
        raise _error(
            text, f"SHA-256 {found}", f"SHA-256 {pretrained.sha256}", "get the file again from the coordinating center"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise _error(text, str(error), "a safetensors file", "name a file of that format in the protocol") from None


def _of_encoder(stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The encoder's part of a whole network; anything else as it is."""
    part = {name.removeprefix(_IN_NETWORK): tensor for name, tensor in stored.items() if name.startswith(_IN_NETWORK)}
    return part or stored


def _error(path: str, found: str, expected: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Fault(path, "network.pretrained", found, expected, remedy)])


def _rename(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        key = name
        if _IGNORED.search(key):
            continue
        for pattern, replacement in _VIT_NAMES:
            key = pattern.sub(replacement, key)
        if match := _JOINT_PROJECTION.match(key):
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            renamed |= {f"{match[1]}.attention.{part}.{match[2]}": rows for part, rows in parts}
        elif key.endswith(".layer_scale"):
            renamed[f"{key}.weight"] = tensor
        else:
            renamed[key] = tensor
    return renamed


def _adapt(tensor: Tensor, own: Tensor) -> Tensor:
    """``tensor`` in the shape of ``own`` where there is a meaningful way; otherwise as it is."""
    if tensor.ndim == own.ndim == 4 and tensor.shape[1] == 3 and own.shape[1] < 3:
        grey = tensor.sum(dim=1, keepdim=True)
        return torch.cat([grey, torch.zeros_like(grey).expand(-1, own.shape[1] - 1, -1, -1)], dim=1)
    if tensor.ndim == 3 and own.ndim == 2:  # class token [1, 1, D], position table [1, 1 + h * w, D]
        return _resize_positions(tensor[0], own.shape[0])
    if tensor.ndim == 3 and own.ndim == 4 and tensor.numel() == own.numel():  # ConvNeXt's layer scale [D, 1, 1]
        return tensor.reshape(own.shape)
    return tensor


def _resize_positions(table: Tensor, rows: int) -> Tensor:
    """Interpolate a class row and a square grid of positions ``[1 + s * s, D]`` to ``[rows, D]``."""
    if len(table) == rows:
        return table
    old, new = math.isqrt(len(table) - 1), math.isqrt(rows - 1)
    grid = table[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, D, s, s]
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([table[:1], resized.flatten(2).transpose(1, 2)[0]])


def _mismatches(stored: Mapping[str, Tensor], own: Mapping[str, Tensor], *, file: str, remedy: str) -> list[Fault]:
    return [
        *(Fault(file, key, "nothing", f"a tensor {list(own[key].shape)}", remedy) for key in own if key not in stored),
        *(Fault(file, key, f"a tensor {list(stored[key].shape)}", "no such key", remedy) for key in stored if key not in own),
        *(
            Fault(file, key, f"a tensor {list(stored[key].shape)}", f"a tensor {list(tensor.shape)}", remedy)
            for key, tensor in own.items()
            if key in stored and stored[key].shape != tensor.shape
        ),
    ]
