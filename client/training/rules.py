"""Client rules: what is added to each gradient so that local training does not drift from the federation.

A rule acts on gradients after clipping, never through the loss: DP-SGD overwrites gradients with clipped per-patient
ones, so a term of the loss that does not depend on a patient would vanish there, while here it costs no privacy.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn


class Correction(Protocol):
    """Changes ``parameter.grad`` in place, once a step."""

    def __call__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Correct the gradients of ``parameters``, in the order in which the rule was made."""


def plain(parameters: Sequence[nn.Parameter]) -> None:
    """FedAvg (McMahan et al. 2017): no correction."""


class Proximal:
    """FedProx (Li et al. 2020) and the personal step of Ditto (Li et al. 2021): pull towards ``anchor``.

    Adds ``strength * (w - anchor)``, the gradient of ``strength / 2 * ||w - anchor||^2``.
    """

    def __init__(self, anchor: Sequence[Tensor], *, strength: float) -> None:
        self.anchor = [tensor.detach().clone() for tensor in anchor]
        self.strength = strength

    def __call__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the pull to each gradient."""
        for parameter, anchor in zip(parameters, self.anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self.strength)


class ControlVariate:
    """SCAFFOLD (Karimireddy et al. 2020, equation 3): adds ``c - c_i``, server's minus own control variate, each ``[D]``."""

    def __init__(self, parameters: Sequence[nn.Parameter], *, server: Tensor, own: Tensor) -> None:
        flat = (server - own).split_with_sizes([parameter.numel() for parameter in parameters])
        self.shift = [part.reshape(parameter.shape).to(parameter) for part, parameter in zip(flat, parameters, strict=True)]

    def __call__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the difference of control variates to each gradient."""
        for parameter, shift in zip(parameters, self.shift, strict=True):
            if parameter.grad is None:
                parameter.grad = shift.clone()
            else:
                parameter.grad.add_(shift)


def renewed_control(*, own: Tensor, server: Tensor, update: Tensor, rate_sum: float) -> Tensor:
    """SCAFFOLD's new own control variate, option II: ``c_i - c - update / sum of learning rates``, each ``[D]``.

    ``update`` is trained minus received parameters. A site that took no step keeps its variate.
    """
    return own - server - update / rate_sum if rate_sum > 0.0 else own
