"""Server optimisers: the aggregated update, negated, is a gradient (Reddi et al. 2021), and ``torch.optim`` takes the step.

``sgd`` with lr 1 is FedAvg, with momentum FedAvgM. FedAdam, FedYogi and FedAdagrad are written here because the published
algorithms (Reddi et al. 2021, Algorithm 2) do not correct bias as ``torch.optim.Adam`` does, which over a few dozen
rounds is a several-fold difference in step size.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from shared_model.messages import Vector
from shared_model.protocol import ServerOptimizer as Settings


class AdaptiveServer(torch.optim.Optimizer):
    """FedAdam, FedYogi, FedAdagrad: ``w += lr * m / (sqrt(v) + tau)`` with ``m`` the moving average of updates.

    ``v`` moves with the squared update: towards it (adam), by its sign (yogi), or adds it up (adagrad). Both start at 0.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        kind: Literal["adam", "yogi", "adagrad"],
        lr: float,
        beta1: float,
        beta2: float,
        tau: float,
    ) -> None:
        super().__init__(parameters, {"kind": kind, "lr": lr, "beta1": beta1, "beta2": beta2, "tau": tau})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step along the gradients that are set."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["m"], state["v"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                update = -parameter.grad
                square = update.square()
                state["m"].mul_(group["beta1"]).add_(update, alpha=1.0 - group["beta1"])
                state["v"] = _second_moment(state["v"], square, kind=group["kind"], beta2=group["beta2"])
                parameter.add_(group["lr"] * state["m"] / (state["v"].sqrt() + group["tau"]))
        return None


def _second_moment(v: Tensor, square: Tensor, *, kind: str, beta2: float) -> Tensor:
    if kind == "adam":
        return beta2 * v + (1.0 - beta2) * square
    if kind == "yogi":
        return v - (1.0 - beta2) * square * torch.sign(v - square)
    return v + square


class ServerOptimizer:
    """The federation's model ``[D]`` and the optimiser that moves it, both restorable from vectors."""

    def __init__(self, settings: Settings, weights: Vector) -> None:
        self._weights = nn.Parameter(torch.from_numpy(weights.copy()))
        self._optimizer = _optimizer(settings, self._weights)

    @property
    def weights(self) -> Vector:
        """The model, float32 ``[D]``; a copy."""
        array: Vector = self._weights.detach().numpy().copy()
        return array

    def apply(self, update: Vector) -> None:
        """Take one step along the aggregated ``update`` float32 ``[D]``."""
        self._weights.grad = -torch.from_numpy(update)
        self._optimizer.step()

    def state(self) -> dict[str, Vector]:
        """The optimiser's own vectors (momentum, moments), each float32 ``[D]``; empty before the first step."""
        held: dict[str, Any] = self._optimizer.state[self._weights]
        return {name: tensor.numpy().copy() for name, tensor in held.items() if isinstance(tensor, Tensor)}

    def restore(self, state: Mapping[str, Vector]) -> None:
        """Continue from what ``state`` returned."""
        self._optimizer.state[self._weights] = {name: torch.from_numpy(vector.copy()) for name, vector in state.items()}


def _optimizer(settings: Settings, weights: nn.Parameter) -> torch.optim.Optimizer:
    if settings.kind == "sgd":
        return torch.optim.SGD([weights], lr=settings.lr, momentum=settings.momentum)
    return AdaptiveServer(
        [weights], kind=settings.kind, lr=settings.lr, beta1=settings.beta1, beta2=settings.beta2, tau=settings.tau
    )
