import numpy as np
import pytest

from server.optimizers import ServerOptimizer
from shared_model.protocol import ServerOptimizer as Settings

START = np.array([1.0, -2.0, 0.5], np.float32)
UPDATES = [np.array(u, np.float32) for u in ([0.1, -0.2, 0.0], [0.3, 0.1, -0.4], [-0.2, 0.0, 0.1])]


def reddi(kind: str, *, lr: float, beta1: float, beta2: float, tau: float) -> np.ndarray:
    """Algorithm 2 of Reddi et al. 2021 with v_0 = 0, in float64."""
    w, m, v = START.astype(np.float64), np.zeros(3), np.zeros(3)
    for update in np.float64(UPDATES):
        m = beta1 * m + (1 - beta1) * update
        square = update**2
        v = {
            "adagrad": v + square,
            "yogi": v - (1 - beta2) * square * np.sign(v - square),
            "adam": beta2 * v + (1 - beta2) * square,
        }[kind]
        w = w + lr * m / (np.sqrt(v) + tau)
    return w


def run(settings: Settings) -> np.ndarray:
    optimizer = ServerOptimizer(settings, START)
    for update in UPDATES:
        optimizer.apply(update)
    return optimizer.weights


def test_sgd_at_rate_one_is_fedavg() -> None:
    np.testing.assert_allclose(run(Settings()), START + sum(UPDATES), rtol=1e-6)


def test_momentum_is_fedavgm() -> None:
    w, velocity = START.astype(np.float64), np.zeros(3)
    for update in UPDATES:
        velocity = 0.9 * velocity + update
        w = w + 0.5 * velocity
    np.testing.assert_allclose(run(Settings(lr=0.5, momentum=0.9)), w, rtol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "yogi", "adagrad"])
def test_adaptive_optimisers_follow_the_paper(kind: str) -> None:
    settings = Settings(kind=kind, lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3)  # type: ignore[arg-type]
    np.testing.assert_allclose(run(settings), reddi(kind, lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3), rtol=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "adam", "yogi", "adagrad"])
def test_restored_optimiser_continues_bit_for_bit(kind: str) -> None:
    settings = Settings(kind=kind, lr=0.1, momentum=0.9 if kind == "sgd" else 0.0)  # type: ignore[arg-type]
    first = ServerOptimizer(settings, START)
    first.apply(UPDATES[0])
    second = ServerOptimizer(settings, first.weights)
    second.restore(first.state())
    for update in UPDATES[1:]:
        first.apply(update)
        second.apply(update)
    assert first.weights.tobytes() == second.weights.tobytes()
