"""Fed-Heart-Disease of FLamby (Ogier du Terrail et al., NeurIPS 2022): a published federated result on four real hospitals.

Accuracies are means over seeds 42 to 46, from the benchmark's own result files; its split rule is followed here.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from client.worker import Worker
from server.journal import Journal
from server.results import assemble
from server.simulation import open_workers, read_sites, run_in_process
from shared_model.config_file import read_toml
from shared_model.protocol import StudyProtocol, read_protocol

pytestmark = [pytest.mark.data, pytest.mark.federation]

STUDY = Path(__file__).parents[2] / "site_configs" / "heart"
SITES = ("cleveland", "hungary", "switzerland", "long_beach")
SEEDS = range(42, 47)
ADAPTIVE = {"beta1": 0.9, "beta2": 0.999, "tau": 1e-8}
# Method: client rule, server optimiser, client learning rate, accuracy at each of SITES, tolerance.
PUBLISHED = {
    "FedAvg": ({}, {}, 0.001, (0.731, 0.719, 0.650, 0.640), 0.02),
    "FedProx": ({"kind": "fedprox", "strength": 0.01}, {}, 0.001, (0.731, 0.719, 0.650, 0.640), 0.03),
    "SCAFFOLD": ({"kind": "scaffold"}, {}, 0.001, (0.727, 0.719, 0.650, 0.640), 0.03),
    "FedAdam": ({}, {"kind": "adam", "lr": 0.01, **ADAPTIVE}, 0.01, (0.752, 0.746, 0.738, 0.667), 0.03),
    "FedYogi": ({}, {"kind": "yogi", "lr": 0.01, **ADAPTIVE}, 0.003162, (0.760, 0.753, 0.738, 0.676), 0.03),
}


def with_flamby_split(site: str, folder: Path, data: Path) -> Path:
    """The hospital's shipped site file over its complete cases, with the benchmark's split as a column."""
    document = read_toml(STUDY / f"{site}.toml")
    cohort = document["cohort"]
    exported = cohort["table"].replace("${CONSILIUM_DATA}", str(data))
    raw = pd.read_csv(exported, header=None, names=cohort["columns"], dtype=str)
    complete = raw[~(raw[cohort["require"]] == "?").any(axis=1)].reset_index(drop=True)
    disease = (complete["num"].astype(float) > 0).astype(int)
    rows = np.arange(len(complete))
    stratify = disease if disease.nunique() > 1 and disease.value_counts().min() > 2 else None
    train, _ = train_test_split(rows, train_size=0.66, test_size=0.34, random_state=43, shuffle=True, stratify=stratify)
    complete["part"] = np.where(np.isin(rows, train), "train", "test")
    table = folder / f"{site}.csv"
    complete.to_csv(table, index=False)
    del cohort["columns"]
    cohort["table"] = table.name
    document["split"] = {"column": "part"}
    path = folder / f"{site}.toml"
    path.write_text(tomli_w.dumps(document))
    return path


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> dict[str, Worker]:
    folder = tmp_path_factory.mktemp("heart")
    sites = read_sites([with_flamby_split(site, folder, real_data) for site in SITES])
    return open_workers(sites, read_protocol(STUDY / "study.toml"), state=folder / "state", threads=1)


def protocol(client_rule: dict[str, object], server_optimizer: dict[str, object], lr: float) -> StudyProtocol:
    document = json.loads(read_protocol(STUDY / "study.toml").canonical_json)
    document["training"]["lr"] = lr
    document["federation"] |= {"client_rule": client_rule, "server_optimizer": server_optimizer}
    return StudyProtocol.model_validate_json(json.dumps(document))


def run(workers: dict[str, Worker], settings: StudyProtocol, *, seed: int, out: Path) -> Journal:
    Journal.create(
        out,
        settings,
        run=f"{out.parent.name}-{out.name}".replace("[", "-").replace("]", ""),
        engine="in-process",
        seed=seed,
        enrolled=SITES,
        versions={},
    ).close()
    run_in_process(workers, out)
    return Journal(out)


@pytest.mark.parametrize("method", PUBLISHED)
def test_accuracy_at_each_hospital_is_the_published_one(method: str, workers: dict[str, Worker], tmp_path: Path) -> None:
    rule, optimizer, lr, published, tolerance = PUBLISHED[method]
    accuracy = []
    for seed in SEEDS:
        with run(workers, protocol(rule, optimizer, lr), seed=seed, out=tmp_path / method.lower() / f"seed-{seed}") as journal:
            evaluations = journal.record().evaluations
        counts = [evaluations[site].parts["test"].thresholds[0] for site in SITES]
        accuracy.append(
            [
                (c.true_positive + c.true_negative) / (c.true_positive + c.true_negative + c.false_positive + c.false_negative)
                for c in counts
            ]
        )
    np.testing.assert_allclose(np.mean(accuracy, axis=0), published, atol=tolerance)


def test_pooled_auc_is_that_of_the_concatenated_scores(workers: dict[str, Worker], tmp_path: Path) -> None:
    settings = protocol({}, {}, 0.001)
    with run(workers, settings, seed=42, out=tmp_path / "run") as journal:
        record = journal.record()
        tensors = journal.load_checkpoint(record.best_round)
    assert tensors is not None
    scores, labels = [], []
    for site in SITES:
        bench = workers[site].bench(settings, seed=42)
        bench.receive(tensors["model"], layout=bench.spec.sha256, normalization=None, personal=None)
        scores.append(bench.scores(bench.parts["test"]))
        labels.append(bench.labels(bench.parts["test"]))
    exact = roc_auc_score(np.concatenate(labels), np.concatenate(scores))
    reported = assemble(record, [])["pooled"]["metrics"]["auc"]
    assert abs(reported["value"] - exact) <= reported["error_bound"]
    assert reported["error_bound"] < 0.02


def test_every_complete_case_is_in_the_study(workers: dict[str, Worker]) -> None:
    settings = protocol({}, {}, 0.001)
    counts = {site: [len(workers[site].bench(settings, seed=0).parts[part]) for part in ("train", "test")] for site in SITES}
    assert counts == {"cleveland": [199, 104], "hungary": [172, 89], "switzerland": [30, 16], "long_beach": [85, 45]}
