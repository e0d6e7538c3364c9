"""A center that asks whether somebody is among a site's training patients, from the model after the site's update: members have
lower losses (Yeom et al. 2018). Success is the AUC of telling members from others of the same population."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from client.site_config import Policy
from shared_model.network import build_network
from shared_model.protocol import StudyProtocol
from tests.attacks.cohorts import SEED, SHIPPED, UNGUARDED, all_training, plain_scale, site, start_model, tabular, trained
from tests.unit.test_study import protocol

pytestmark = pytest.mark.attacks
VARIABLES, PATIENTS = 10, 40


def study(*, epochs: int, privacy: dict[str, object] | None = None) -> StudyProtocol:
    document = protocol(
        network={"kind": "clinical_only", "width": 16, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0},
        training={"epochs": epochs, "batch_size": 8, "optimizer": "adamw", "lr": 3e-3},
        federation={"rounds": 1},
    ).model_dump(mode="json")
    document["variables"] = {f"v{k}": {"kind": "numeric"} for k in range(VARIABLES)}
    document["privacy"] = privacy or {}
    return StudyProtocol.model_validate_json(StudyProtocol.model_validate(document, strict=False).model_dump_json())


def advantage(folder: Path, settings: StudyProtocol, *, policy: Policy) -> float:
    """AUC with which the center tells members from others; labels are random, so that all that is learned is of patients."""
    members = tabular(patients=PATIENTS, variables=VARIABLES, seed=1, random_labels=True)
    others = tabular(patients=PATIENTS, variables=VARIABLES, seed=2, random_labels=True)
    update = trained(site(folder, all_training(members), policy=policy), settings)
    assert update is not None
    spec, start = start_model(settings)
    network = build_network(settings, normalization=plain_scale(settings), seed=SEED)
    spec.load(network, start + update)
    network.eval()
    losses = []
    with torch.inference_mode():
        for group in (members, others):
            batch = group.batch(torch.arange(PATIENTS))
            losses.append(
                torch.nn.functional.binary_cross_entropy_with_logits(network(batch), batch.label, reduction="none").numpy()
            )
    is_member = np.repeat([1, 0], PATIENTS)
    return float(roc_auc_score(is_member, -np.concatenate(losses)))


def test_members_are_told_where_a_site_overfits_and_nothing_hides_it(tmp_path: Path) -> None:
    """With random labels a model that knows its patients by heart is right about half of the others, too, whose losses are then
    as small: no model gives this attack much more than an AUC of 0.75."""
    assert advantage(tmp_path, study(epochs=60), policy=UNGUARDED) > 0.7


def test_members_are_hidden_by_differential_privacy(tmp_path: Path) -> None:
    settings = study(epochs=60, privacy={"dp": {"epsilon": 8.0}})
    assert advantage(tmp_path, settings, policy=SHIPPED) < 0.65


def test_members_are_hard_to_tell_after_the_few_steps_of_a_shipped_round(tmp_path: Path) -> None:
    assert advantage(tmp_path, study(epochs=1), policy=SHIPPED) < 0.65
