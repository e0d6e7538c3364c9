"""A center that reads a patient's row out of an update: the gradient of a linear layer is residual times input, that of its
bias the residual alone, and their ratio the input (Phong et al. 2018)."""

from pathlib import Path

import numpy as np
import pytest

from client.site_config import Policy
from shared_model.protocol import StudyProtocol
from tests.attacks.cohorts import SHIPPED, UNGUARDED, all_training, site, tabular, trained
from tests.unit.test_study import protocol

pytestmark = pytest.mark.attacks
VARIABLES = 12


def study(**training: object) -> StudyProtocol:
    variables = {f"v{k}": {"kind": "numeric"} for k in range(VARIABLES)}
    settings = protocol(training=training | {"optimizer": "sgd", "lr": 0.1})
    document = settings.model_dump(mode="json", exclude_none=True) | {"variables": variables}
    if "steps" in training:
        document["training"].pop("epochs", None)
    return StudyProtocol.model_validate_json(StudyProtocol.model_validate(document, strict=False).model_dump_json())


def rows_recovered(folder: Path, settings: StudyProtocol, *, patients: int, policy: Policy) -> int:
    data = tabular(patients=patients, variables=VARIABLES)
    update = trained(site(folder, all_training(data), policy=policy), settings)
    if update is None:
        return 0
    guess = update[:VARIABLES] / update[VARIABLES]
    rows = data.numeric.double().numpy()
    errors = np.linalg.norm(rows - guess, axis=1) / np.linalg.norm(rows, axis=1)
    return int(np.sum(errors < 0.1))


@pytest.mark.parametrize("patients", [1, 3, 8, 36])
def test_no_row_is_recovered_at_shipped_settings(tmp_path: Path, patients: int) -> None:
    assert rows_recovered(tmp_path, study(epochs=1, batch_size=8), patients=patients, policy=SHIPPED) == 0


@pytest.mark.parametrize(
    "settings",
    [study(epochs=1, batch_size=8), study(epochs=5, batch_size=8)],
    ids=["a single step", "several steps on the same patient"],
)
def test_the_attack_succeeds_where_a_single_patient_may_train(tmp_path: Path, settings: StudyProtocol) -> None:
    assert rows_recovered(tmp_path, settings, patients=1, policy=UNGUARDED) == 1
