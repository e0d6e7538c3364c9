import numpy as np
import pytest
import torch
from torch import nn

from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.seeds import derive
from tests.unit.test_study import protocol

MULTI = protocol(network={"kind": "multimodal", "width": 8, "heads": 2}, images={"size": 32, "views": {"a": {}}})


def network(seed: int = 0) -> nn.Module:
    return build_network(MULTI, normalization=None, seed=seed)


@pytest.mark.parametrize("personal", [(), ("head",), ("norm",), ("norm", "head")])
def test_shared_and_personal_parameters_are_all_of_them_and_none_twice(personal: tuple[str, ...]) -> None:
    net = network()
    spec = ParameterSpec.of(net, personal=personal)
    names = [name for name, _ in (*spec.shared, *spec.personal)]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.GroupNorm | nn.LayerNorm)}
    for name, _ in spec.personal:
        assert name.startswith("head.") or name.rsplit(".", 1)[0] in norms


@pytest.mark.parametrize("personal", [(), ("norm", "head")])
def test_a_vector_carries_the_shared_parameters_and_leaves_the_personal_ones(personal: tuple[str, ...]) -> None:
    source, target = network(1), network(2)
    spec = ParameterSpec.of(source, personal=personal)
    before = spec.personal_vector(target)
    spec.load(target, spec.to_vector(source))
    assert np.array_equal(spec.to_vector(target), spec.to_vector(source))
    assert np.array_equal(spec.personal_vector(target), before)
    spec.load_personal(target, spec.personal_vector(source))
    for name, parameter in source.named_parameters():
        assert torch.equal(parameter, target.get_parameter(name))


def test_the_layout_has_an_identity() -> None:
    other = build_network(
        protocol(network={"kind": "multimodal", "width": 16, "heads": 2}, images={"size": 32, "views": {"a": {}}}),
        normalization=None,
        seed=0,
    )
    assert ParameterSpec.of(network(1)).sha256 == ParameterSpec.of(network(2)).sha256
    assert ParameterSpec.of(network()).sha256 != ParameterSpec.of(other).sha256
    assert ParameterSpec.of(network()).sha256 != ParameterSpec.of(network(), personal=("head",)).sha256


def test_a_vector_of_another_length_is_refused() -> None:
    net = network()
    spec = ParameterSpec.of(net)
    with pytest.raises(ValueError, match="parameters"):
        spec.load(net, np.zeros(spec.size + 1, np.float32))


def test_frozen_parameters_do_not_travel() -> None:
    net = network()
    net.get_submodule("head").requires_grad_(False)
    assert not any(name.startswith("head.") for name, _ in ParameterSpec.of(net).shared)


def test_seeds_follow_from_their_purpose_alone() -> None:
    seeds = {
        derive(seed, purpose, round_, site) for seed in (0, 1) for purpose in "ab" for round_ in (1, 12) for site in ("x", "y")
    }
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(0, "a", 1, "x") == derive(0, "a", 1, "x")
    assert derive(1, "2") != derive(12)
