from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional as F

from shared_model import config_file
from shared_model.errors import ConfigurationError
from shared_model.fusion import Attention, BidirectionalBlock
from shared_model.inputs import ABSENT, PatientBatch
from shared_model.network import LogisticNetwork, MultimodalNetwork, build_network, drop_modalities
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Normalization

KINDS = ["multimodal", "image_only", "clinical_only", "logistic", "late_fusion"]
NORMALIZATION = Normalization(mean=(50.0, 12.0), scale=(10.0, 5.0), frequency=((0.75, 0.25), (0.2, 0.3, 0.5)))


def protocol(**network: Any) -> StudyProtocol:
    """Two imaging modalities (three views) and two tabular groups, as small as can be."""
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
            "views": {"transverse": {}, "longitudinal": {}, "flow": {"modality": "doppler"}},
            "size": 32,
            "per_patient": 3,
        },
        "network": settings,
        "training": {"epochs": 1},
        "federation": {"rounds": 1},
    }
    return config_file.validate(document, StudyProtocol, where="study.toml")


def network(*, seed: int = 0, normalization: Normalization | None = NORMALIZATION, **settings: Any) -> Any:
    return build_network(protocol(**settings), normalization=normalization, seed=seed)


def patients(count: int, *, slots: int = 3, seed: int = 0) -> PatientBatch:
    """Patients with everything: a transverse, a longitudinal and a Doppler image, every variable."""
    draw = torch.Generator().manual_seed(seed)
    return PatientBatch(
        images=torch.rand(count, slots, 1, 32, 32, generator=draw),
        views=torch.arange(slots).expand(count, -1).clone(),
        numeric=torch.rand(count, 2, generator=draw) * 60.0,
        numeric_present=torch.ones(count, 2, dtype=torch.bool),
        categorical=torch.stack(
            [torch.randint(0, 2, (count,), generator=draw), torch.randint(0, 3, (count,), generator=draw)], dim=1
        ),
        label=torch.randint(0, 2, (count,), generator=draw).float(),
    )


def rows(batch: PatientBatch, index: Any) -> PatientBatch:
    return PatientBatch(**{field.name: getattr(batch, field.name)[index] for field in fields(batch)})


def without(batch: PatientBatch, *modalities: str) -> PatientBatch:
    """The same patients without some of the modalities."""
    views, present, categorical = batch.views.clone(), batch.numeric_present.clone(), batch.categorical.clone()
    if "bmode" in modalities:
        views[:, :2] = ABSENT
    if "doppler" in modalities:
        views[:, 2] = ABSENT
    if "clinical" in modalities:
        present[:] = False
        categorical[:, 0] = ABSENT
    if "genomic" in modalities:
        categorical[:, 1] = ABSENT
    return replace(batch, views=views, numeric_present=present, categorical=categorical)


def double(batch: PatientBatch) -> PatientBatch:
    return replace(batch, images=batch.images.double(), numeric=batch.numeric.double())


# Building


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_network_and_leaves_the_generator_alone(kind: str) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, second, other = network(kind=kind), network(kind=kind), network(kind=kind, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_one_finite_number_each_and_gradients_reach_every_parameter(kind: str) -> None:
    net, batch = network(kind=kind), patients(5)
    # Rows of learned tokens that nobody uses have gradient zero; none may be without one.
    logits = net(batch)
    assert logits.shape == (5,)
    assert logits.isfinite().all()
    F.binary_cross_entropy_with_logits(logits, batch.label).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_of_a_layer_with_known_gradients(kind: str) -> None:
    known = (nn.Linear, nn.Embedding, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    owners = [module for module in network(kind=kind).modules() if list(module.parameters(recurse=False))]
    assert owners
    assert all(type(module) in known for module in owners)


def test_shared_and_personal_parameters_are_found() -> None:
    spec = ParameterSpec.of(network(), personal=("head", "norm"))
    personal = {name for name, _ in spec.personal}
    assert {"head.weight", "head.bias", "norm.weight"} <= personal
    assert not any("norm" in name for name, _ in spec.shared)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_restores_weights_and_normalization(kind: str) -> None:
    source, target = network(kind=kind, seed=1), network(kind=kind, normalization=None)
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(patients(3)), target(patients(3)))


# Normalization


def test_without_normalization_nothing_passes_for_a_result() -> None:
    assert network(kind="logistic", normalization=None)(patients(2)).isnan().all()
    assert network(normalization=None)(patients(2)).isnan().all()
    assert network(kind="image_only", normalization=None)(patients(2)).isfinite().all()


@pytest.mark.parametrize("kind", ["multimodal", "clinical_only", "logistic"])
def test_a_site_may_bring_its_own_normalization(kind: str) -> None:
    net, batch = network(kind=kind), patients(4)
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    net.set_normalization(replace(NORMALIZATION, mean=(40.0, 7.0), scale=(20.0, 10.0)))
    moved = replace(batch, numeric=(batch.numeric - torch.tensor([40.0, 7.0])) / 2.0 + torch.tensor([50.0, 12.0]))
    assert torch.allclose(net(batch), network(kind=kind)(moved), atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))


def test_normalization_of_other_variables_is_refused() -> None:
    net = network(kind="clinical_only")
    with pytest.raises(ValueError, match="normalization of"):
        net.set_normalization(replace(NORMALIZATION, mean=(1.0,)))
    with pytest.raises(ValueError, match="normalization of"):
        net.set_normalization(replace(NORMALIZATION, frequency=((0.5, 0.5), (0.5, 0.5))))
    with pytest.raises(ValueError, match="needs their normalization"):
        net.set_normalization(None)
    network(kind="image_only").set_normalization(None)


# Logistic regression


def test_logistic_is_the_linear_layer_that_the_seed_gives() -> None:
    torch.manual_seed(42)
    reference = nn.Linear(5, 1)
    net = network(kind="logistic", seed=42)
    assert isinstance(net, LogisticNetwork)
    assert torch.equal(net.head.weight, reference.weight)
    assert torch.equal(net.head.bias, reference.bias)
    assert [name for name, _ in net.named_parameters()] == ["head.weight", "head.bias"]


def test_logistic_features_follow_the_formula_in_the_protocols_order() -> None:
    batch = replace(
        patients(3),
        numeric=torch.tensor([[60.0, 2.0], [45.0, 0.0], [0.0, 12.0]]),
        numeric_present=torch.tensor([[True, True], [True, False], [False, True]]),
        categorical=torch.tensor([[1, 2], [0, 0], [ABSENT, ABSENT]]),
    )
    sex, braf, ras = (0.25 * 0.75) ** 0.5, (0.3 * 0.7) ** 0.5, 0.5
    # age, male, size, BRAF, RAS
    expected = torch.tensor(
        [
            [1.0, (1 - 0.25) / sex, -2.0, -0.3 / braf, (1 - 0.5) / ras],
            [-0.5, -0.25 / sex, 0.0, -0.3 / braf, -0.5 / ras],
            [0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    net = network(kind="logistic")
    assert torch.allclose(net.features(batch), expected, atol=1e-6)
    assert torch.allclose(net(batch), expected @ net.head.weight[0] + net.head.bias, atol=1e-6)


def test_a_category_that_all_or_none_have_is_not_divided_by_zero() -> None:
    constant = replace(NORMALIZATION, frequency=((0.0, 1.0), (1.0, 0.0, 0.0)))
    batch = replace(patients(2), categorical=torch.tensor([[1, 0], [0, 1]]))
    features = network(kind="logistic", normalization=constant).features(batch)
    assert torch.equal(features[:, [1, 3, 4]], torch.tensor([[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]))


# Missing data


@pytest.mark.parametrize("absent", list(product([False, True], repeat=4)))
def test_any_subset_of_modalities_can_be_present(absent: tuple[bool, ...]) -> None:
    names = [name for name, out in zip(("bmode", "doppler", "clinical", "genomic"), absent, strict=True) if out]
    net, batch = network(), without(patients(2), *names)
    logits = net(batch)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert net.modalities == ("bmode", "doppler", "clinical", "genomic")
    assert net.present(batch).tolist() == [[not out for out in absent]] * 2
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("slots", [0, 3])
def test_a_site_without_images_never_calls_the_encoder(slots: int) -> None:
    net, batch = network(), without(patients(4, slots=slots), "bmode", "doppler") if slots else patients(4, slots=0)
    net.image_tokens.encoder.register_forward_hook(lambda *_: pytest.fail("the encoder was called"))
    net(batch).sum().backward()
    assert all(parameter.grad is None for parameter in net.image_tokens.encoder.parameters())
    assert net.head.weight.grad.any()


def test_pixels_of_an_absent_slot_have_no_influence() -> None:
    net, batch = network().eval(), patients(3)
    views = batch.views.clone()
    views[0, 1] = ABSENT
    views[1] = ABSENT
    batch = replace(batch, views=views)
    other = batch.images.clone()
    other[0, 1] = 0.5
    other[1] = torch.nan
    assert torch.equal(net(batch), net(batch.with_images(other)))


@pytest.mark.parametrize("kind", ["multimodal", "clinical_only", "logistic"])
def test_the_value_of_a_missing_variable_has_no_influence(kind: str) -> None:
    net, batch = network(kind=kind).eval(), patients(3)
    present = batch.numeric_present.clone()
    present[0, 0] = present[2, 1] = False
    batch = replace(batch, numeric_present=present)
    other = batch.numeric.clone()
    other[0, 0], other[2, 1] = 1e6, torch.nan
    assert torch.equal(net(batch), net(replace(batch, numeric=other)))
    assert not torch.equal(net(batch), net(replace(batch, numeric_present=torch.ones_like(present))))


@pytest.mark.parametrize("kind", ["multimodal", "clinical_only"])
def test_a_missing_number_is_not_the_mean_nor_another_variables_missing(kind: str) -> None:
    net = network(kind=kind).eval()
    batch = replace(patients(1), numeric=torch.tensor([[50.0, 12.0]]))
    mean = net(batch)
    no_age = net(replace(batch, numeric_present=torch.tensor([[False, True]])))
    no_size = net(replace(batch, numeric_present=torch.tensor([[True, False]])))
    assert min(abs(no_age - mean), abs(no_size - mean), abs(no_age - no_size)) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_nobody(kind: str) -> None:
    net = network(kind=kind, modality_dropout=0.5)
    logits = net(patients(0))
    assert logits.shape == (0,)
    logits.sum().backward()
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


@pytest.mark.parametrize("modality", ["bmode", "doppler", "clinical", "genomic"])
def test_leaving_a_modality_out_is_as_if_the_patient_had_none(modality: str) -> None:
    net, batch = network().eval(), patients(3)
    modalities = net.present(batch)
    modalities[:, net.modalities.index(modality)] = False
    left_out = net.logits(batch, modalities)
    assert torch.allclose(left_out, net(without(batch, modality)), atol=1e-6)
    assert not torch.allclose(left_out, net(batch), atol=1e-4)


# Patients and images do not mix


@pytest.mark.parametrize("kind", KINDS)
def test_a_patients_logit_does_not_depend_on_the_batch(kind: str) -> None:
    net = network(kind=kind).eval()
    batch = patients(6)
    views = batch.views.clone()
    views[0] = ABSENT
    views[1, 0] = ABSENT
    batch = replace(batch, views=views)
    alone = torch.cat([net(rows(batch, slice(i, i + 1))) for i in range(6)])
    assert torch.allclose(net(batch), alone, atol=1e-5)
    assert alone.std() > 1e-3


@pytest.mark.parametrize("kind", ["multimodal", "image_only"])
def test_the_order_of_a_patients_images_does_not_matter(kind: str) -> None:
    net, batch = network(kind=kind).eval(), patients(4)
    order = torch.tensor([2, 0, 1])
    shuffled = replace(batch, images=batch.images[:, order], views=batch.views[:, order])
    assert torch.allclose(net(batch), net(shuffled), atol=1e-5)
    mislabelled = replace(batch, images=batch.images[:, order])
    assert not torch.allclose(net(batch), net(mislabelled), atol=1e-4)


# Gradients


@pytest.mark.parametrize("kind", ["multimodal", "image_only", "clinical_only"])
@pytest.mark.parametrize("count", [1, 2])
def test_gradients_are_those_of_finite_differences(kind: str, count: int) -> None:
    """In double precision, against (f(x + e) - f(x - e)) / 2e along a random direction of each parameter."""
    net, batch = network(kind=kind).double().eval(), double(without(patients(count), "genomic"))
    net(batch).square().sum().backward()
    draw, step = torch.Generator().manual_seed(1), 1e-6
    for name, parameter in net.named_parameters():
        direction = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        direction /= direction.norm()  # a longer step would cross kinks of the rectifiers
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                values.append(net(batch).square().sum().item())
                parameter.sub_(sign * step * direction)
        numerical = (values[0] - values[1]) / (2.0 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(numerical, rel=1e-4, abs=1e-7), name


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of layers whose input needs no gradient
@pytest.mark.parametrize("kind", KINDS)
def test_opacus_gradients_of_each_patient_match_autograd(kind: str) -> None:
    net, batch = network(kind=kind), rows(patients(4, slots=1), slice(None))
    batch = replace(batch, numeric_present=torch.tensor([[True, True], [False, True], [True, True], [False, False]]))
    expected = []
    for i in range(4):
        one = rows(batch, slice(i, i + 1))
        net.zero_grad()
        F.binary_cross_entropy_with_logits(net(one), one.label).backward()
        expected.append({name: parameter.grad.clone() for name, parameter in net.named_parameters()})
    net.zero_grad()
    sampled = GradSampleModule(net, loss_reduction="mean")
    F.binary_cross_entropy_with_logits(sampled(batch), batch.label).backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(parameter.grad_sample, torch.stack([row[name] for row in expected]), atol=1e-6, rtol=1e-3), name


# Modality dropout


def test_each_modality_is_dropped_at_its_rate_but_never_all() -> None:
    torch.manual_seed(0)
    present = torch.tensor([True, True, True, False]).expand(20_000, -1)
    kept = drop_modalities(present, probability=0.4)
    assert not kept[:, 3].any()
    assert kept[:, :3].any(dim=1).all()
    # All three fall together with probability 0.4 ** 3, and then one of them stays.
    assert kept[:, :3].float().mean().item() == pytest.approx(0.6 + 0.4**3 / 3, abs=0.01)


def test_the_last_modality_stays_and_nobody_gains_one() -> None:
    torch.manual_seed(0)
    present = torch.tensor([[True, False], [False, True], [False, False], [True, True]])
    assert torch.equal(drop_modalities(present, probability=1.0).sum(dim=1), torch.tensor([1, 1, 0, 1]))
    assert torch.equal(drop_modalities(present, probability=0.0), present)


def test_dropout_is_of_training_only_and_follows_the_global_seed() -> None:
    net, batch = network(modality_dropout=0.5, dropout=0.2), patients(8)
    torch.manual_seed(1)
    first = net(batch)
    torch.manual_seed(1)
    assert torch.equal(first, net(batch))
    assert not torch.equal(first, net(batch))
    net.eval()
    assert torch.equal(net(batch), net(batch))


# Structure


@pytest.mark.parametrize(("bidirectional", "joint"), [(0, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["multimodal", "image_only", "clinical_only"])
def test_any_number_of_blocks(kind: str, bidirectional: int, joint: int) -> None:
    net = network(kind=kind, bidirectional_blocks=bidirectional, joint_blocks=joint)
    assert isinstance(net, MultimodalNetwork)
    assert net(patients(2)).isfinite().all()


def test_tokens_are_counted_and_masked() -> None:
    net, batch = network().eval(), without(patients(2), "doppler", "genomic")
    image, table = net.tokens(batch, net.present(batch))
    assert image.values.shape == (2, 2 + 3 * 4, 16)  # summaries, then 2 x 2 tokens of three slots
    assert image.mask[0].tolist() == [True] * 2 + [True] * 8 + [False] * 4
    assert table.values.shape == (2, 2 + 4, 16)  # summaries, then numeric and categorical variables
    assert table.mask[0].tolist() == [True] * 2 + [True, True, True, False]


def test_an_encoder_that_does_not_suit_the_images_is_told_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="vit_b_16"):
        study = protocol(encoder="vit_b_16")
        assert study.images
        odd = study.model_copy(update={"images": study.images.model_copy(update={"size": 40})})
        build_network(odd, normalization=NORMALIZATION, seed=0)


def _reference_attention(layer: Attention, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention written out head by head, before the output layer."""
    heads = []
    for q, k, v in zip(*(x.chunk(layer.heads, -1) for x in (queries, keys[0], keys[1])), strict=True):
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        heads.append(scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ v)
    return torch.cat(heads, dim=-1)


def test_the_bidirectional_block_is_the_mean_of_self_and_cross_attention() -> None:
    torch.manual_seed(0)
    block = BidirectionalBlock(8, heads=2, dropout=0.0)
    image, table = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    image_mask, table_mask = torch.rand(2, 5) < 0.7, torch.rand(2, 3) < 0.7
    image_mask[:, 0] = table_mask[:, 0] = True
    side = block.image
    own, other = side.attention_norm(image), block.table.attention_norm(table)
    queries = side.attention.query(own)
    to_own = _reference_attention(side.attention, queries, (side.attention.key(own), side.attention.value(own)), image_mask)
    to_other = _reference_attention(
        side.attention, queries, (block.table.attention.key(other), block.table.attention.value(other)), table_mask
    )
    attended = image + side.attention.output((to_own + to_other) / 2)
    expected = attended + side.mlp(side.mlp_norm(attended))
    assert torch.allclose(block(image, table, image_mask=image_mask, table_mask=table_mask)[0], expected, atol=1e-5)
