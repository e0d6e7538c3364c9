"""DP-SGD by patient: gradients against autograd one patient at a time, noise and sampling against their distributions."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.cohort.tensors import CohortTensors
from client.training import private
from client.training.entropy import fresh_generator, seed_globals
from client.training.loop import LocalTraining
from client.training.patient_gradients import AUTOMATIC_STABILITY, PatientGradients
from client.training.private import sampling_rate, train_privately
from client.training.rules import Correction, Proximal, plain
from shared_model import config_file
from shared_model.errors import FailureCode, RefusedError
from shared_model.inputs import ABSENT, PatientBatch
from shared_model.network import MultimodalNetwork, PatientNetwork, build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from shared_model.protocol_privacy import DifferentialPrivacy
from shared_model.summaries import Normalization
from tests.unit.test_network import patients, rows

NORMALIZATION = Normalization(mean=(50.0, 12.0), scale=(10.0, 5.0), frequency=((0.75, 0.25), (0.2, 0.3, 0.5)))
TWO_NUMBERS = Normalization(mean=(0.0, 0.0), scale=(1.0, 1.0), frequency=())


def protocol(*, training: dict[str, Any] | None = None, trainable: str = "all", **network: Any) -> StudyProtocol:
    """The study of test_network, with up to four images of a patient."""
    settings = {"width": 16, "heads": 2, "image_grid": 2, "dropout": 0.0, "modality_dropout": 0.0} | network
    document = {
        "study": {"name": "test", "title": "A test", "outcome": "positive"},
        "variables": {
            "age": {"kind": "numeric", "unit": "years"},
            "sex": {"kind": "categorical", "categories": ["female", "male"]},
            "size": {"kind": "numeric", "unit": "mm"},
            "mutation": {"kind": "categorical", "categories": ["none", "BRAF", "RAS"], "group": "genomic"},
        },
        "images": {
            "views": {"transverse": {}, "longitudinal": {}, "oblique": {}, "flow": {"modality": "doppler"}},
            "size": 32,
            "per_patient": 4,
        },
        "network": settings,
        "training": {"steps": 1, "batch_size": 8, "optimizer": "sgd", "lr": 1.0} | (training or {}),
        "federation": {"rounds": 1},
        "privacy": {"trainable": trainable, "dp": {"epsilon": 8.0}},
    }
    return config_file.validate(document, StudyProtocol, where="study.toml")


def dp(**changes: Any) -> DifferentialPrivacy:
    return DifferentialPrivacy.model_validate({"epsilon": 8.0} | changes)


def bags() -> PatientBatch:
    """Five patients with 1, 2, 3, 4 and no images, some variables missing."""
    batch = patients(5, slots=4)
    views = torch.where(torch.arange(4) < torch.tensor([[1], [2], [3], [4], [0]]), batch.views, ABSENT)
    present = batch.numeric_present.clone()
    present[1, 0] = present[3] = False
    return replace(batch, views=views, numeric_present=present)


def one_by_one(net: PatientNetwork, batch: PatientBatch, settings: DifferentialPrivacy) -> list[Tensor]:
    """The clipped sum written out: autograd for one patient at a time, in double precision where it is added."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    for i in range(len(batch)):
        one = rows(batch, slice(i, i + 1))
        loss = F.binary_cross_entropy_with_logits(net(one), one.label)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        norms = torch.stack([g.norm() for g in gradient])
        whole = norms.norm()
        for total_of, g, norm in zip(total, gradient, norms, strict=True):
            if settings.clipping == "per_layer":
                factor = min(1.0, settings.clip_norm / math.sqrt(len(parameters)) / max(float(norm), 1e-12))
            elif settings.clipping == "automatic":
                factor = settings.clip_norm / (float(whole) + AUTOMATIC_STABILITY)
            else:
                factor = min(1.0, settings.clip_norm / float(whole))
            total_of += factor * g.double()
    return total


@pytest.mark.parametrize("clipping", ["flat", "automatic", "per_layer"])
@pytest.mark.parametrize("trainable", ["all", "fusion_and_head"])
@pytest.mark.parametrize("kind", ["multimodal", "late_fusion"])
def test_clipped_gradients_equal_autograd_patient_by_patient(kind: str, clipping: str, trainable: str) -> None:
    net = build_network(protocol(kind=kind, trainable=trainable), normalization=NORMALIZATION, seed=0)
    settings, batch = dp(clipping=clipping, clip_norm=0.1), bags()
    expected = one_by_one(net, batch, settings)
    with PatientGradients(net, settings) as gradients:
        for piece in (slice(0, 2), slice(2, 5)):  # physical batches
            gradients.add(rows(batch, piece))
    assert len(gradients.total) == len(expected)
    for found, wanted in zip(gradients.total, expected, strict=True):
        assert float((found - wanted).abs().max()) <= 1e-6
    assert not any(hasattr(parameter, "grad_sample") for parameter in net.parameters())


@pytest.mark.parametrize("encoder", ["convnext_tiny", "resnet18", "efficientnet_b0"])
def test_a_patient_s_images_are_one_gradient_in_every_encoder(encoder: str) -> None:
    net = build_network(protocol(encoder=encoder), normalization=NORMALIZATION, seed=0)
    for module in net.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # it draws for each image
    settings, batch = dp(clip_norm=0.1), rows(bags(), slice(0, 3))
    expected = one_by_one(net, batch, settings)
    with PatientGradients(net, settings) as gradients:
        gradients.add(batch)
    for found, wanted in zip(gradients.total, expected, strict=True):
        assert float((found - wanted).abs().max()) <= 2e-6


def test_copies_of_a_patient_are_averaged_before_clipping() -> None:
    net = build_network(protocol(), normalization=NORMALIZATION, seed=0)
    first, second = bags(), replace(bags(), images=bags().images.flip(-1))
    settings = dp(clipping="flat", clip_norm=0.1, augmentation_multiplicity=2)
    interleaved = {
        name: torch.stack([getattr(first, name), getattr(second, name)], dim=1).flatten(0, 1)
        for name in PatientBatch.__dataclass_fields__
    }
    parameters = list(net.parameters())
    expected = [torch.zeros_like(parameter) for parameter in parameters]
    for i in range(len(first)):
        losses = [
            F.binary_cross_entropy_with_logits(net(one), one.label)
            for one in (rows(first, slice(i, i + 1)), rows(second, slice(i, i + 1)))
        ]
        found = torch.autograd.grad((losses[0] + losses[1]) / 2.0, parameters, allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        norm = float(torch.stack([g.norm() for g in gradient]).norm())
        for total, g in zip(expected, gradient, strict=True):
            total += min(1.0, 0.1 / norm) * g
    with PatientGradients(net, settings) as gradients:
        gradients.add(PatientBatch(**interleaved))
    for found_, wanted in zip(gradients.total, expected, strict=True):
        assert float((found_ - wanted).abs().max()) <= 1e-6


@pytest.mark.parametrize("clipping", ["flat", "automatic", "per_layer"])
def test_no_patient_moves_the_sum_by_more_than_the_clip_norm(clipping: str) -> None:
    net = build_network(protocol(), normalization=NORMALIZATION, seed=0)
    batch = replace(bags(), numeric=bags().numeric * 1e4)  # gradients far beyond the clip norm
    settings = dp(clipping=clipping, clip_norm=0.5)
    for left_out in range(len(batch)):
        sums = []
        for kept in (range(len(batch)), [i for i in range(len(batch)) if i != left_out]):
            with PatientGradients(net, settings) as gradients:
                gradients.add(rows(batch, torch.tensor(list(kept))))
            sums.append(torch.cat([total.flatten().double() for total in gradients.total]))
        assert float((sums[0] - sums[1]).norm()) <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e38])
def test_a_patient_with_values_that_are_not_finite_adds_nothing(poison: float) -> None:
    net = build_network(protocol(), normalization=NORMALIZATION, seed=0)
    batch = bags()
    numeric = batch.numeric.clone()
    numeric[2] = poison
    with PatientGradients(net, dp()) as gradients:
        gradients.add(replace(batch, numeric=numeric))
        with_him = [total.clone() for total in gradients.total]
        gradients.clear()
        gradients.add(rows(batch, torch.tensor([0, 1, 3, 4])))
    for found, wanted in zip(with_him, gradients.total, strict=True):
        assert found.isfinite().all()
        if math.isnan(poison):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_a_layer_that_mixes_patients_is_refused() -> None:
    net = build_network(protocol(), normalization=NORMALIZATION, seed=0)
    assert isinstance(net, MultimodalNetwork)
    assert net.image_tokens is not None
    net.image_tokens.encoder.trunk.append(nn.BatchNorm2d(128))  # type: ignore[operator]
    with pytest.raises(RefusedError, match="BatchNorm") as caught:
        PatientGradients(net, dp())
    assert caught.value.code is FailureCode.MODEL_REFUSED


def test_a_layer_whose_gradients_are_not_known_is_refused() -> None:
    net = build_network(protocol(), normalization=NORMALIZATION, seed=0)
    net.head.weight_norm = nn.Bilinear(2, 2, 1)
    with pytest.raises(RefusedError, match="Bilinear"):
        PatientGradients(net, dp())


# The loop


def tabular(**training: Any) -> StudyProtocol:
    document = {
        "study": {"name": "s", "title": "t", "outcome": "o"},
        "variables": {"a": {"kind": "numeric"}, "b": {"kind": "numeric"}},
        "network": {"kind": "logistic"},
        "training": {"steps": 1, "batch_size": 20, "optimizer": "sgd", "lr": 1.0} | training,
        "federation": {"rounds": 4},
        "privacy": {"dp": {"epsilon": 8.0, "clipping": "flat"}},
    }
    return config_file.validate(document, StudyProtocol, where="study.toml")


def cohort(count: int = 40) -> CohortTensors:
    from tests.sites import tensors

    return tensors(patients=count, seed=0)


def run(
    settings: StudyProtocol,
    *,
    noise: float = 0.0,
    seed: int | None = 1,
    index: Tensor | None = None,
    correction: Correction | None = None,
    **of_dp: Any,
) -> tuple[PatientNetwork, LocalTraining]:
    assert settings.privacy.dp is not None
    network = build_network(settings, normalization=TWO_NUMBERS, seed=0)
    done = train_privately(
        network,
        cohort(),
        torch.arange(40) if index is None else index,
        training=settings.training,
        dp=settings.privacy.dp.model_copy(update=of_dp),
        noise_multiplier=noise,
        parameters=ParameterSpec.of(network).parameters(network),
        correction=correction or plain,
        round_=1,
        rounds=4,
        generator=fresh_generator() if seed is None else torch.Generator().manual_seed(seed),
    )
    return network, done


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


def start() -> Tensor:
    return flat(build_network(tabular(), normalization=TWO_NUMBERS, seed=0))


def test_everybody_drawn_and_no_noise_is_gradient_descent_on_clipped_gradients() -> None:
    network, done = run(tabular(batch_size=40), clip_norm=0.3)
    net = build_network(tabular(), normalization=TWO_NUMBERS, seed=0)
    total = one_by_one(net, cohort().batch(torch.arange(40)), dp(clipping="flat", clip_norm=0.3))
    expected = start() - torch.cat([part.reshape(-1) for part in total]).float() / 40
    torch.testing.assert_close(flat(network), expected, atol=1e-6, rtol=1e-5)
    assert done.loss is None
    assert done.steps == 1


def test_physical_batches_change_nothing() -> None:
    whole, _ = run(tabular(steps=4), physical_batch=64)
    pieces, _ = run(tabular(steps=4), physical_batch=3)
    torch.testing.assert_close(flat(whole), flat(pieces), atol=1e-6, rtol=1e-5)


def test_the_noise_has_the_stated_spread() -> None:
    """Standard deviation noise multiplier times clip norm over q n, alike in every parameter and independent between steps."""
    settings = tabular()
    wide = settings.model_copy(update={"network": protocol(kind="clinical_only", width=32).network})
    network = build_network(wide, normalization=TWO_NUMBERS, seed=0)
    before = flat(network)
    for seed, steps in ((0, 1), (1, 4)):
        ParameterSpec.of(network).load(network, before.numpy())
        train_privately(
            network,
            cohort(),
            torch.arange(40),
            training=wide.training.model_copy(update={"steps": steps}),
            dp=dp(clip_norm=0.01),
            noise_multiplier=50.0,
            parameters=ParameterSpec.of(network).parameters(network),
            correction=plain,
            round_=1,
            rounds=1,
            generator=torch.Generator().manual_seed(seed),
        )
        change = flat(network) - before
        assert len(change) > 10_000
        # The patients add at most 0.01 to the norm of a step, spread over all parameters: nothing beside the noise.
        assert float(change.std()) == pytest.approx(50.0 * 0.01 * math.sqrt(steps) / 20.0, rel=0.03)
        assert abs(float(change.mean())) < 4.0 * float(change.std()) / math.sqrt(len(change))


def test_patients_are_drawn_independently_at_the_sampling_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    original = private._batches

    def spy(cohort_: CohortTensors, members: Tensor, **rest: Any) -> Any:
        drawn.append(members)
        return original(cohort_, members, **rest)

    monkeypatch.setattr(private, "_batches", spy)
    run(tabular(steps=500, batch_size=4, lr=1e-6))
    took_part = torch.zeros(500, 40)
    for step, members in enumerate(drawn):
        took_part[step, members] = 1.0
    assert sampling_rate(tabular(batch_size=4).training, patients=40) == 0.1
    assert float(took_part.mean()) == pytest.approx(0.1, abs=0.01)
    sizes = took_part.sum(dim=1)
    assert float(sizes.var()) == pytest.approx(40 * 0.1 * 0.9, rel=0.25), "Poisson sampling, not batches of one size"
    assert (sizes == 0).any(), "empty batches occur, and are survived"


def test_the_client_rule_and_weight_decay_act_outside_the_private_gradient() -> None:
    """With a clip norm of almost nothing only they are left."""
    anchor = [torch.full_like(p, 0.5) for p in build_network(tabular(), normalization=TWO_NUMBERS, seed=0).parameters()]
    pulled, _ = run(tabular(), correction=Proximal(anchor, strength=0.7), clip_norm=1e-12)
    torch.testing.assert_close(flat(pulled), start() - 0.7 * (start() - 0.5))
    decayed, _ = run(tabular(weight_decay=0.2), clip_norm=1e-12)
    torch.testing.assert_close(flat(decayed), 0.8 * start())


def test_the_mean_of_weights_is_the_exponential_one() -> None:
    first, _ = run(tabular(steps=1))
    torch.testing.assert_close(flat(run(tabular(steps=1), ema=0.9)[0]), flat(first))
    second, _ = run(tabular(steps=2))
    mean, _ = run(tabular(steps=2), ema=0.9)
    torch.testing.assert_close(flat(mean), (0.9 * 0.1 * flat(first) + 0.1 * flat(second)) / (1 - 0.81), atol=1e-5, rtol=1e-4)


def test_the_injected_generator_decides_everything_and_the_process_keeps_its_own_randomness() -> None:
    settings = tabular(steps=3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first, _ = run(settings, noise=1.0, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert torch.equal(flat(first), flat(run(settings, noise=1.0, seed=5)[0]))
    assert not torch.equal(flat(first), flat(run(settings, noise=1.0, seed=6)[0]))


def test_divergence_is_refused_by_what_is_noisy_already() -> None:
    with pytest.raises(RefusedError) as caught:
        run(tabular(steps=50, lr=1e38, weight_decay=1e3))
    assert caught.value.code is FailureCode.TRAINING_DIVERGED


# Entropy


def test_no_seed_reaches_the_generator_and_its_draws_are_uniform() -> None:
    torch.manual_seed(0)
    first = torch.rand(50_000, generator=fresh_generator(), dtype=torch.float64)
    torch.manual_seed(0)
    second = torch.rand(50_000, generator=fresh_generator(), dtype=torch.float64)
    assert not (first == second).any()
    for draw in (first, second):
        counts = torch.histc(draw, bins=50, min=0.0, max=1.0)
        chi_square = float(((counts - 1000.0) ** 2 / 1000.0).sum())
        assert chi_square < 100.0  # 49 degrees of freedom: exceeded once in 20 000 runs
    normal = torch.randn(50_000, generator=fresh_generator())
    assert abs(float(normal.mean())) < 0.03
    assert float(normal.std()) == pytest.approx(1.0, abs=0.02)


def test_the_whole_state_is_drawn_where_a_seed_would_leave_32_bits() -> None:
    by_seed = [torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7 + 2**32)]
    assert torch.equal(*by_seed), "if torch mends this, fresh_generator may be simpler"
    states = torch.stack([fresh_generator().get_state() for _ in range(20)])[:, 24 : 24 + 8 * 624].reshape(20, 624, 8)
    assert (states[:, :, :4].float().std(dim=0) > 0).all(), "every byte of every word differs between generators"


def test_dropout_s_draws_are_not_those_of_the_noise() -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.random.fork_rng(devices=[]):
        seed_globals(generator, torch.device("cpu"))
        dropout = torch.rand(5000)
    noise = torch.rand(10_000, generator=generator)
    assert not torch.isin(dropout, noise[:5000]).float().mean() > 0.01
