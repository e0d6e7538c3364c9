"""Attributions against what is true: invented patients, of whom it is known what each variable brings to their risk.

The network is the demo's without its pictures, fitted to the true risks: of a network that has learned the truth, an
attribution that is right must find it again. (Pictures show size, pole and calcification too, so that a network with
pictures may take these from there, and what it then takes from the table is no longer what the table brings.)
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import binary_cross_entropy_with_logits

from client.synthetic.patients import CaseMix, Patients, draw_patients
from shared_model.attribution import Frozen, integrated_gradients, modality_shapley, sampled_shapley
from shared_model.attribution.modalities import left_out
from shared_model.attribution.variables import variable_names
from shared_model.inputs import PatientBatch, categorical_names, numeric_names
from shared_model.network import PatientNetwork, build_network
from shared_model.protocol import StudyProtocol, read_protocol
from shared_model.summaries import CategoryCounts, Moments, Normalization

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[2] / "site_configs" / "demo" / "study.toml"
MIX = CaseMix(texture_effect=0.0)  # what only pictures show does not bear on the risk


def table_only() -> StudyProtocol:
    protocol = read_protocol(STUDY)
    network = protocol.network.model_copy(update={"kind": "clinical_only", "dropout": 0.0})
    return protocol.model_copy(update={"network": network, "images": None})


def batch_of(patients: Patients, protocol: StudyProtocol) -> PatientBatch:
    numeric = np.stack(
        [_number(patients.variables[name], protocol.variables[name].log) for name in numeric_names(protocol)], axis=1
    )
    codes = [_codes(patients.variables[name], protocol.variables[name].categories) for name in categorical_names(protocol)]
    count = len(patients)
    return PatientBatch(
        images=torch.zeros(count, 0, 1, 16, 16),
        views=torch.zeros(count, 0, dtype=torch.int64),
        numeric=torch.from_numpy(numeric).float(),
        numeric_present=torch.ones(count, numeric.shape[1], dtype=torch.bool),
        categorical=torch.from_numpy(np.stack(codes, axis=1)),
        label=torch.from_numpy(patients.risk).float(),
    )


def _number(values: "pd.Series[float]", log: bool) -> np.ndarray:  # type: ignore[type-arg]
    return np.log(values.to_numpy()) if log else values.to_numpy()


def _codes(values: "pd.Series[str]", categories: tuple[str, ...]) -> np.ndarray:  # type: ignore[type-arg]
    if values.dtype == bool:
        return values.to_numpy().astype(np.int64)  # "no" and "wild type" come first
    return values.map({name: code for code, name in enumerate(categories)}).to_numpy(dtype=np.int64)


@pytest.fixture(scope="module")
def fitted() -> tuple[StudyProtocol, PatientNetwork]:
    protocol = table_only()
    batch = batch_of(draw_patients(3000, mix=MIX, seed=1), protocol)
    moments = [Moments.of(batch.numeric[:, column].double().numpy()) for column in range(batch.numeric.shape[1])]
    counts = [
        CategoryCounts(
            tuple(int((batch.categorical[:, column] == code).sum()) for code in range(len(protocol.variables[name].categories)))
        )
        for column, name in enumerate(categorical_names(protocol))
    ]
    network = build_network(protocol, normalization=Normalization.of(moments, counts), seed=0).train()
    steps = 700
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(0, len(batch), (128,), generator=generator)
        part = PatientBatch(**{name: getattr(batch, name)[rows] for name in vars(batch)})
        loss = binary_cross_entropy_with_logits(network(part), part.label)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return protocol, network.eval()


@pytest.mark.parametrize("method", ["integrated gradients", "Shapley sampling"])
def test_variable_attributions_find_the_true_contributions(fitted: tuple[StudyProtocol, PatientNetwork], method: str) -> None:
    protocol, network = fitted
    patients = draw_patients(200, mix=MIX, seed=2)
    batch, names = batch_of(patients, protocol), variable_names(protocol)
    if method == "integrated gradients":
        found = integrated_gradients(network, batch, protocol=protocol)
    else:
        found = sampled_shapley(network, batch, protocol=protocol, seed=0, orders=10)
    true = np.stack(
        [patients.contributions[name] if name in patients.contributions else np.zeros(200) for name in names], axis=1
    )
    true -= true.mean(axis=0)
    assert spearmanr(found.logit, patients.logit)[0] >= 0.95  # the network has learned the truth
    assert spearmanr(found.values.ravel(), true.ravel())[0] >= 0.9
    assert spearmanr(np.abs(found.values).mean(axis=0), np.abs(true).mean(axis=0))[0] >= 0.9


def test_shares_of_modalities_are_near_those_of_the_truth(fitted: tuple[StudyProtocol, PatientNetwork]) -> None:
    protocol, network = fitted
    patients = draw_patients(300, mix=MIX, seed=3)
    batch = batch_of(patients, protocol)
    true = np.stack(
        [
            patients.contributions[
                [n for n in protocol.variables if protocol.variables[n].group == group and n in patients.contributions]
            ].sum(axis=1)
            for group in protocol.groups
        ],
        axis=1,
    )
    shares = [
        _shares(values) for values in (modality_shapley(network, batch, protocol=protocol).values, true - true.mean(axis=0))
    ]
    assert np.abs(_shares(left_out(Frozen.of(network, batch))) - shares[0]).max() <= 0.05  # type: ignore[arg-type]
    assert np.abs(shares[0] - shares[1]).max() <= 0.05


def _shares(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray((np.abs(values) / np.abs(values).sum(axis=1, keepdims=True)).mean(axis=0))
