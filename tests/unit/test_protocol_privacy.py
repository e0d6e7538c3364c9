"""The protocol's [privacy]: what is refused by name, and what a frozen encoder means for the network."""

from typing import Any

import pytest
import torch

from shared_model.errors import ConfigurationError
from shared_model.network import MultimodalNetwork, build_network
from shared_model.parameters import ParameterSpec
from tests.unit.test_protocol import protocol

DP = {"dp": {"epsilon": 8.0}}


def test_without_the_section_there_is_no_differential_privacy() -> None:
    assert protocol().privacy.dp is None
    assert protocol(privacy={}).canonical_json == protocol().canonical_json
    assert protocol(privacy=DP).sha256 != protocol().sha256


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"federation": {"client_rule": {"kind": "ditto"}}}, "Ditto"),
        (
            {
                "privacy": {"dp": {"epsilon": 8.0, "ema": 0.9}},
                "federation": {"client_rule": {"kind": "scaffold"}},
                "training": {"optimizer": "sgd"},
            },
            r"remove privacy\.dp\.ema",
        ),
        ({"training": {"class_weighting": "balanced"}}, "class weights"),
        ({"training": {"gradient_clip": 1.0}}, r"remove training\.gradient_clip"),
        ({"training": {"compile": True}}, r"training\.compile"),
        (
            {
                "privacy": {"dp": {"epsilon": 8.0, "augmentation_multiplicity": 4}},
                "network": {"dropout": 0.0, "modality_dropout": 0.0},
            },
            "copies of a patient",
        ),
        ({"privacy": {"dp": {"epsilon": 8.0, "accountant": "none"}}}, r"privacy\.dp\.accountant[\s\S]*prv"),
        ({"privacy": {"dp": {"epsilon": 0.0}}}, r"privacy\.dp\.epsilon"),
        ({"privacy": {"dp": {"epsilon": 8.0, "noise_multiplier": 0.1}}}, r"privacy\.dp\.noise_multiplier"),
        ({"privacy": {"trainable": "fusion_and_head"}, "network": {"kind": "clinical_only"}}, "no image encoder"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        protocol(**({"privacy": DP} | changes))


def test_scaffold_and_fedprox_go_together_with_differential_privacy() -> None:
    protocol(privacy=DP, federation={"client_rule": {"kind": "scaffold"}}, training={"optimizer": "sgd"})
    protocol(privacy=DP, federation={"client_rule": {"kind": "fedprox"}})


def test_a_frozen_encoder_is_the_seed_s_own_and_does_not_travel() -> None:
    whole = build_network(protocol(), normalization=None, seed=3)
    frozen = build_network(protocol(privacy={"trainable": "fusion_and_head"}), normalization=None, seed=3)
    assert isinstance(frozen, MultimodalNetwork)
    assert isinstance(whole, MultimodalNetwork)
    assert frozen.image_tokens is not None
    names = {name for name, _ in ParameterSpec.of(frozen).shared}
    assert not any(name.startswith("image_tokens.encoder.") for name in names)
    assert "image_tokens.projection.weight" in names
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), frozen.parameters(), strict=True))
