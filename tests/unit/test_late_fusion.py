"""Late fusion: the sum of two networks, its beginning, what of it is frozen, and how it is explained."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from client.explaining.contributions import Explainer
from server.report.prose.answered import missing
from server.report.prose.modelling import network as model_in_words
from shared_model.attribution.modalities import modality_shapley
from shared_model.attribution.variables import integrated_gradients, logistic_terms
from shared_model.errors import ConfigurationError
from shared_model.explanation_layout import layout
from shared_model.inputs import PatientBatch
from shared_model.network import LateFusionNetwork, build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from shared_model.protocol_explanation import Explanation
from shared_model.protocol_privacy import Privacy
from tests.unit.test_network import NORMALIZATION, network, patients, protocol, without


def late(*, seed: int = 0, **settings: Any) -> LateFusionNetwork:
    built = network(kind="late_fusion", seed=seed, **settings)
    assert isinstance(built, LateFusionNetwork)
    return built.eval()


def stored(file: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    """``tensors`` as a file, as ``network.pretrained`` names it."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_its_log_odds_are_those_of_two_networks_added_up() -> None:
    built, batch = late(seed=3), without(patients(6), "genomic")
    pictures, table = network(kind="image_only", seed=9).eval(), network(kind="logistic", seed=9).eval()
    state = built.state_dict()
    pictures.load_state_dict({name: state[name] for name in pictures.state_dict()})
    table.load_state_dict({name: state[f"table_tokens.regression.{name}"] for name in table.state_dict()})
    with torch.no_grad():
        assert torch.allclose(built(batch), pictures(batch) + table(batch), atol=1e-6)


@pytest.mark.parametrize("modality", ["bmode", "doppler", "clinical", "genomic"])
def test_leaving_a_modality_out_is_as_if_the_patient_had_none(modality: str) -> None:
    built, batch = late(), patients(3)
    modalities = built.present(batch)
    modalities[:, built.modalities.index(modality)] = False
    left_out = built.logits(batch, modalities)
    assert torch.allclose(left_out, built(without(batch, modality)), atol=1e-6)
    assert torch.allclose(left_out, built.logits_of(batch, built.contents(batch, modalities), modalities), atol=1e-5)
    assert not torch.allclose(left_out, built(batch), atol=1e-4)


def test_it_begins_as_the_run_on_pictures_that_it_is_given(tmp_path: Path) -> None:
    run = network(kind="image_only", seed=5).state_dict()
    state = late(pretrained=stored(tmp_path / "best.safetensors", run)).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in run.items())
    other = late(seed=8).state_dict()
    again = late(pretrained=stored(tmp_path / "late.safetensors", other)).state_dict()
    assert all(torch.equal(again[name], other[name]) for name in run)
    assert not torch.equal(again["table_tokens.regression.head.weight"], other["table_tokens.regression.head.weight"])


def test_a_file_of_an_encoder_alone_gives_no_more_than_that(tmp_path: Path) -> None:
    run = network(kind="image_only", seed=5).state_dict()
    trunk = {name: tensor for name, tensor in run.items() if ".encoder." in name}
    state, untaught = late(pretrained=stored(tmp_path / "encoder.safetensors", trunk)).state_dict(), late().state_dict()
    assert all(torch.equal(state[name], (trunk | untaught)[name] if name not in trunk else trunk[name]) for name in untaught)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "image_only", "width": 32}, "image_tokens.projection.weight"),
        ({"kind": "multimodal"}, "stream_blocks.0.image"),
    ],
)
def test_a_run_of_another_network_is_refused_by_name(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    weights = stored(tmp_path / "best.safetensors", network(seed=5, **settings).state_dict())
    with pytest.raises(ConfigurationError, match="image_only") as caught:
        late(pretrained=weights)
    assert any(fault.key.startswith(named) for fault in caught.value.faults)


def frozen(**privacy: Any) -> StudyProtocol:
    settings = Privacy.model_validate({"trainable": "fusion_and_head"} | privacy)
    return protocol(kind="late_fusion").model_copy(update={"privacy": settings})


def test_with_frozen_pictures_two_linear_layers_are_all_that_travels() -> None:
    spec = ParameterSpec.of(build_network(frozen(), normalization=NORMALIZATION, seed=0))
    table = "table_tokens.regression.head"
    assert [name for name, _ in spec.shared] == ["head.weight", "head.bias", f"{table}.weight", f"{table}.bias"]
    assert spec.size == 16 + 1 + 5 + 1


def test_both_heads_stay_at_the_site_that_keeps_its_head() -> None:
    personal = {name for name, _ in ParameterSpec.of(late(), personal=("head",)).personal}
    assert personal == {f"{prefix}head.{part}" for prefix in ("", "table_tokens.regression.") for part in ("weight", "bias")}


def test_variables_contribute_the_terms_of_the_regression() -> None:
    built, batch, study = late(), without(patients(6), "doppler"), protocol(kind="late_fusion")
    found = integrated_gradients(built, batch, protocol=study)
    terms = logistic_terms(built.table_tokens.regression, batch, protocol=study)  # type: ignore[union-attr]
    assert found.names == terms.names
    assert found.values == pytest.approx(terms.values, abs=1e-6)
    shares = modality_shapley(built, batch, protocol=study)
    assert shares.names == ("bmode", "doppler", "clinical", "genomic")
    assert shares.values[:, 2:] == pytest.approx(np.stack([terms.values[:, :3].sum(1), terms.values[:, 3]], axis=1), abs=1e-6)
    assert np.abs(shares.values[:, 1]).max() == 0.0


def test_its_summary_has_the_cells_of_the_layout() -> None:
    study = protocol(kind="late_fusion").model_copy(update={"explanation": Explanation()})
    batch: PatientBatch = patients(8)
    rows = Explainer(late(), study, 0).contribution_rows(batch, brief=False)
    lengths = layout(study)
    assert {"attention.variables", "faithfulness.variables", "modalities.share"} <= rows.keys() <= lengths.keys()
    assert all(values.shape[1] == lengths[name] for name, (_, values) in rows.items())
    assert "faithfulness.occlusion" in lengths


def test_the_report_names_it_and_says_what_was_not_trained_and_what_is_missing() -> None:
    told = str(model_in_words(frozen(), {}))
    assert "(late fusion)" in told
    assert "was not trained further, but for its last layer" in told
    assert "not trained further" not in str(model_in_words(protocol(kind="late_fusion"), {}))
    answer = missing({"protocol": protocol(kind="late_fusion").model_dump()})
    assert answer is not None
    assert "at the mean" in answer[0]
