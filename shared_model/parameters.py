"""A network's parameters as one flat float32 vector, and which of them the federation shares.

Only parameters travel, never buffers: the networks have no running statistics, so there is nothing else to average.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import nn

from shared_model.messages import Vector

_NORMS = (nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class ParameterSpec:
    """Names and shapes of the shared parameters, in the vector's order; ``personal`` ones stay at the site."""

    shared: tuple[tuple[str, tuple[int, ...]], ...]
    personal: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, network: nn.Module, *, personal: tuple[str, ...] = ()) -> Self:
        """The spec of ``network``. ``personal`` names classes of parameters: ``norm`` (of GroupNorm and LayerNorm), ``head``
        (of submodules called ``head``)."""
        kept = _personal_names(network, personal)
        shapes = [(name, tuple(parameter.shape)) for name, parameter in network.named_parameters() if parameter.requires_grad]
        return cls(
            shared=tuple((name, shape) for name, shape in shapes if name not in kept),
            personal=tuple((name, shape) for name, shape in shapes if name in kept),
        )

    @property
    def size(self) -> int:
        """Length of the vector of shared parameters, ``D``."""
        return sum(_numel(shape) for _, shape in self.shared)

    @property
    def sha256(self) -> str:
        """Identity of the shared layout."""
        return hashlib.sha256(repr(self.shared).encode()).hexdigest()

    def to_vector(self, network: nn.Module) -> Vector:
        """Shared parameters of ``network``, float32 ``[D]`` on the CPU."""
        return self._gather(network, self.shared)

    def load(self, network: nn.Module, vector: Vector) -> None:
        """Write ``vector`` float32 ``[D]`` into the shared parameters of ``network``.

        Raises:
            ValueError: the vector's length is not ``size``.
        """
        self._scatter(network, self.shared, vector)

    def personal_vector(self, network: nn.Module) -> Vector:
        """The parameters that stay at the site, float32 ``[E]``."""
        return self._gather(network, self.personal)

    def load_personal(self, network: nn.Module, vector: Vector) -> None:
        """Write float32 ``[E]`` into the parameters that stay at the site."""
        self._scatter(network, self.personal, vector)

    def parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """The shared parameters of ``network`` in the vector's order."""
        return [network.get_parameter(name) for name, _ in self.shared]

    @staticmethod
    def _gather(network: nn.Module, layout: tuple[tuple[str, tuple[int, ...]], ...]) -> Vector:
        parts = [network.get_parameter(name).detach().reshape(-1).cpu() for name, _ in layout]
        return torch.cat(parts).to(torch.float32).numpy() if parts else np.zeros(0, np.float32)

    @staticmethod
    def _scatter(network: nn.Module, layout: tuple[tuple[str, tuple[int, ...]], ...], vector: Vector) -> None:
        size = sum(_numel(shape) for _, shape in layout)
        if vector.shape != (size,):
            raise ValueError(f"a vector of {vector.shape} where the network has {size} parameters")
        flat = torch.from_numpy(np.array(vector, dtype=np.float32))
        offset = 0
        with torch.no_grad():
            for name, shape in layout:
                network.get_parameter(name).copy_(flat.narrow(0, offset, _numel(shape)).reshape(shape))
                offset += _numel(shape)


def _numel(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _personal_names(network: nn.Module, personal: tuple[str, ...]) -> frozenset[str]:
    names: set[str] = set()
    if "norm" in personal:
        names |= {
            f"{prefix}.{name}"
            for prefix, module in network.named_modules()
            if isinstance(module, _NORMS)
            for name, _ in module.named_parameters()
        }
    if "head" in personal:
        names |= {
            f"{prefix}.{name}"
            for prefix, module in network.named_modules()
            if prefix.split(".")[-1] == "head"
            for name, _ in module.named_parameters()
        }
    return frozenset(names)
