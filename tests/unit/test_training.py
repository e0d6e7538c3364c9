"""Local training and client rules, each against a few lines of plain torch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from client.cohort.tensors import CohortTensors
from client.training.loop import rate_factor, steps_per_round, train_locally
from client.training.rules import ControlVariate, Proximal, plain, renewed_control
from shared_model.errors import FailureCode, RefusedError
from shared_model.network import PatientNetwork, build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import Federation, Network, Study, StudyProtocol, Training
from shared_model.summaries import Normalization
from shared_model.variables import Variable
from tests.sites import tensors

NORMALIZATION = Normalization(mean=(0.0, 0.0), scale=(1.0, 1.0), frequency=())


def protocol(**training: object) -> StudyProtocol:
    settings = {"steps": 5, "batch_size": 1000, "optimizer": "sgd", "lr": 0.1} | training
    return StudyProtocol(
        study=Study(name="s", title="t", outcome="o"),
        variables={"a": Variable(kind="numeric"), "b": Variable(kind="numeric")},
        network=Network(kind="logistic"),
        training=Training(**settings),  # type: ignore[arg-type]
        federation=Federation(rounds=4),
    )


def cohort() -> CohortTensors:
    return tensors(patients=40, seed=0)


def run(
    settings: StudyProtocol, correction: Callable[..., None] | None = None, *, seed: int = 1
) -> tuple[PatientNetwork, float]:
    network = build_network(settings, normalization=NORMALIZATION, seed=0)
    done = train_locally(
        network,
        cohort(),
        torch.arange(40),
        training=settings.training,
        parameters=ParameterSpec.of(network).parameters(network),
        correction=correction or plain,
        round_=1,
        rounds=4,
        seed=seed,
    )
    return network, done.rate_sum


def by_hand(settings: StudyProtocol, extra: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Full-batch gradient descent written out; ``extra`` adds to the gradients of weight and bias."""
    head = build_network(settings, normalization=NORMALIZATION, seed=0).head
    data = cohort()
    for _ in range(5):
        loss = binary_cross_entropy_with_logits(head(data.numeric).squeeze(1), data.label)
        grad_w, grad_b = torch.autograd.grad(loss, [head.weight, head.bias])
        more_w, more_b = extra(head.weight.detach(), head.bias.detach())
        with torch.no_grad():
            head.weight -= 0.1 * (grad_w + more_w)
            head.bias -= 0.1 * (grad_b + more_b)
    return torch.cat([head.weight.reshape(-1), head.bias]).detach()


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


def zero(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(weight), torch.zeros_like(bias)


def test_plain_training_is_gradient_descent() -> None:
    network, rate_sum = run(protocol())
    torch.testing.assert_close(flat(network), by_hand(protocol(), zero))
    assert rate_sum == pytest.approx(0.5)


def test_fedprox_adds_the_gradient_of_its_penalty() -> None:
    start = build_network(protocol(), normalization=NORMALIZATION, seed=0)
    anchor = [parameter.detach().clone() for parameter in start.parameters()]
    network, _ = run(protocol(), Proximal(anchor, strength=0.7))
    expected = by_hand(protocol(), lambda w, b: (0.7 * (w - anchor[0]), 0.7 * (b - anchor[1])))
    torch.testing.assert_close(flat(network), expected)


def test_scaffold_adds_the_difference_of_controls_and_renews_its_own() -> None:
    server, own = torch.tensor([0.3, -0.1, 0.2]), torch.tensor([0.1, 0.1, -0.3])
    start = build_network(protocol(), normalization=NORMALIZATION, seed=0)
    network, rate_sum = run(protocol(), ControlVariate(list(start.parameters()), server=server, own=own))
    shift = server - own
    torch.testing.assert_close(flat(network), by_hand(protocol(), lambda w, b: (shift[:2][None], shift[2:])))
    renewed = renewed_control(own=own, server=server, update=flat(network) - flat(start), rate_sum=rate_sum)
    # Option II is the mean of the uncorrected gradients along the way (Karimireddy et al. 2020).
    gradients = []
    probe = build_network(protocol(), normalization=NORMALIZATION, seed=0)
    data = cohort()
    for _ in range(5):
        loss = binary_cross_entropy_with_logits(probe.head(data.numeric).squeeze(1), data.label)
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(probe.parameters()))])
        gradients.append(gradient)
        with torch.no_grad():
            for parameter, part in zip(probe.parameters(), (gradient + shift).split_with_sizes([2, 1]), strict=True):
                parameter -= 0.1 * part.reshape(parameter.shape)
    torch.testing.assert_close(renewed, torch.stack(gradients).mean(dim=0), rtol=1e-4, atol=1e-6)


def test_same_seed_same_bits_and_the_process_keeps_its_own_randomness() -> None:
    settings = protocol(batch_size=7, epochs=2, steps=None, optimizer="adamw")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first, _ = run(settings, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert torch.equal(flat(first), flat(run(settings, seed=5)[0]))
    assert not torch.equal(flat(first), flat(run(settings, seed=6)[0]))


def test_balanced_weighting_weighs_positives_by_the_ratio_of_classes() -> None:
    label = cohort().label
    ratio = (len(label) - label.sum()) / label.sum()
    network, _ = run(protocol(steps=1, class_weighting="balanced"))
    head = build_network(protocol(), normalization=NORMALIZATION, seed=0).head
    logits = head(cohort().numeric).squeeze(1)
    loss = binary_cross_entropy_with_logits(logits, label, weight=torch.where(label == 1, ratio, torch.ones(())))
    gradients = torch.autograd.grad(loss, [head.weight, head.bias])
    expected = torch.cat([(p - 0.1 * g).reshape(-1) for p, g in zip([head.weight, head.bias], gradients, strict=True)])
    torch.testing.assert_close(flat(network), expected.detach())


def test_clipping_bounds_the_step() -> None:
    start = flat(build_network(protocol(), normalization=NORMALIZATION, seed=0))
    network, _ = run(protocol(steps=1, gradient_clip=0.01))
    assert float((flat(network) - start).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_divergence_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        run(protocol(lr=1e38, steps=50, weight_decay=1e3))
    assert caught.value.code is FailureCode.TRAINING_DIVERGED


@pytest.mark.parametrize(("patients", "expected"), [(1, 3), (10, 3), (11, 6), (40, 12)])
def test_steps_of_an_epoch_cover_every_patient(patients: int, expected: int) -> None:
    assert steps_per_round(Training(epochs=3, batch_size=10), patients=patients) == expected


def test_schedules() -> None:
    cosine = Training(epochs=1, schedule="cosine", warmup_rounds=2)
    factors = [rate_factor(cosine, progress=r / 10, rounds=10) for r in range(10)]
    assert factors[0] == pytest.approx(1 / 3)
    assert factors[1] == pytest.approx(2 / 3)
    assert factors[2] == pytest.approx(1.0)
    assert np.all(np.diff(factors[2:]) < 0)
    assert rate_factor(Training(epochs=1), progress=0.9, rounds=10) == 1.0
