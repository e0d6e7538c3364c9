"""The demo's pictures and tables learned at four invented hospitals, and fresh patients of whom everything is known."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from client.cohort.tensors import CohortTensors, StudyPatients, pool
from client.state import SiteState
from client.synthetic import HOSPITALS, synthesize
from client.tasks.explain import with_outlines
from client.tasks.train import PERSONAL
from client.worker import Worker
from server.baselines import alone
from server.journal import Journal
from server.simulation import DEMO_STUDY, central_worker, open_workers, run_in_process
from shared_model.network import MultimodalNetwork, PatientNetwork, build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol, read_protocol

PATIENTS, FRESH = 400, 400  # at each hospital
ROUNDS, RATE = 24, 0.003
_SEED, _FRESH_SEED = 1, 77
Where = Literal["central", "federated"]


def demo_protocol(**changes: Any) -> StudyProtocol:
    """The demo's with late fusion, for training alone: more rounds, and no explanation at the sites.

    ``network``, ``images`` ... of ``changes`` replace keys of these sections.
    """
    protocol = read_protocol(DEMO_STUDY).model_copy(update={"explanation": None})
    sections = {"network": {"kind": "late_fusion"}, "training": {"lr": RATE}, "federation": {"rounds": ROUNDS}}
    for name, keys in changes.items():
        sections[name] = sections.get(name, {}) | keys
    return protocol.model_copy(
        update={name: getattr(protocol, name).model_copy(update=keys) for name, keys in sections.items()}
    )


@dataclass(frozen=True)
class Hospitals:
    """Two exports of each hospital: ``developed`` to train and tune on, and ``fresh`` patients, all for testing."""

    developed: Mapping[str, Path]
    fresh: Mapping[str, Path]
    folder: Path

    @classmethod
    def draw(cls, folder: Path, *, patients: int = PATIENTS, fresh: int = FRESH) -> "Hospitals":
        """Draw them below ``folder``."""
        return cls(
            developed=_exports(folder / "developed", patients, _SEED, "train = 0.8\ntune = 0.2\ntest = 0.0"),
            fresh=_exports(folder / "fresh", fresh, _FRESH_SEED, "train = 0.0\ntune = 0.0\ntest = 1.0"),
            folder=folder,
        )

    def without(self, name: str) -> "Hospitals":
        """The same, in whose configuration the view or variable ``name`` has no part."""
        return replace(
            self,
            developed={hospital: _without(file, name) for hospital, file in self.developed.items()},
            fresh={hospital: _without(file, name) for hospital, file in self.fresh.items()},
        )

    @property
    def truth(self) -> pd.DataFrame:
        """Of the fresh patients, hospital by hospital, in the order in which a cohort holds them: by identifier as text."""
        tables = [pd.read_parquet(self.folder / "fresh/truth" / f"{name}.parquet").assign(hospital=name) for name in self.fresh]
        ordered = [table.sort_values("id", key=lambda i: i.astype(str)) for table in tables]
        return pd.concat(ordered, ignore_index=True)


@dataclass(frozen=True)
class Learned:
    """A trained network, and the fresh patients as it sees them, hospital by hospital; ``logits`` ``[P]`` of these patients, by
    each hospital's own layers where the study has some."""

    protocol: StudyProtocol
    network: PatientNetwork
    tensors: CohortTensors
    logits: NDArray[np.float64]

    def auc(self, chosen: "NDArray[np.bool_] | slice" = slice(None)) -> float:
        """Of the fresh patients ``chosen``."""
        return float(roc_auc_score(self.tensors.label.numpy()[chosen], self.logits[chosen]))


def learn(hospitals: Hospitals, protocol: StudyProtocol, where: Where, *, name: str) -> Learned:
    """Train ``protocol`` at all hospitals together, or with all their patients in one place, in a run named ``name``."""
    folder = hospitals.folder / "runs" / name
    workers: Mapping[str, Worker] = open_workers(hospitals.developed, protocol, state=folder / "state", threads=1)
    if where == "central":
        pooled = central_worker(workers, state=folder / "state")
        workers, protocol = {pooled.name: pooled}, alone(protocol, [])
    Journal.create(folder, protocol, run=name, engine="in-process", seed=0, enrolled=tuple(workers), versions={}).close()
    run_in_process(workers, folder)
    with Journal(folder) as journal:
        record = journal.record()
        checkpoint = journal.load_checkpoint(record.best_round)
    assert checkpoint is not None
    network = build_network(protocol, normalization=record.normalization, seed=0).eval()
    spec = ParameterSpec.of(network, personal=protocol.federation.personal)
    spec.load(network, checkpoint["model"])
    logits, fresh = [], _fresh_patients(hospitals, protocol)
    for hospital, patients in fresh.items():
        if spec.personal:
            own = SiteState(folder / "state" / name / hospital).load(record.best_round)
            spec.load_personal(network, own[PERSONAL])
        logits.append(_logits(network, patients.tensors))
    return Learned(protocol, network, pool(list(fresh.values())).tensors, np.concatenate(logits))


def _logits(network: PatientNetwork, tensors: CohortTensors) -> NDArray[np.float64]:
    with torch.no_grad():
        parts = [network(tensors.batch(rows)) for rows in torch.arange(len(tensors)).split(200)]
    return torch.cat(parts).double().numpy()


def _fresh_patients(hospitals: Hospitals, protocol: StudyProtocol) -> dict[str, StudyPatients]:
    workers = open_workers(hospitals.fresh, protocol, state=hospitals.folder / "state", threads=1)
    return {name: worker.cohort(protocol) for name, worker in workers.items()}


def fresh_patients(hospitals: Hospitals, protocol: StudyProtocol) -> StudyPatients:
    """The fresh patients of all hospitals as ``protocol`` sees them."""
    return pool(list(_fresh_patients(hospitals, protocol).values()))


def outlines(hospitals: Hospitals, protocol: StudyProtocol) -> torch.Tensor:
    """Lesions in the fresh patients' pictures as the network sees them, uint8 ``[M, H, W]``: the boxes that sites know."""
    return fresh_patients(hospitals, with_outlines(protocol)).tensors.images[:, 1]


def multimodal(learned: Learned) -> MultimodalNetwork:
    """The network, which has both streams."""
    assert isinstance(learned.network, MultimodalNetwork)
    return learned.network


def _without(file: Path, name: str) -> Path:
    beside = file.with_name(f"without_{name}.toml")
    part = re.compile(rf"""^{name} = .*\n|,?\s*("[^"]*"|[\w-]+)\s*=\s*"{name}\"""", re.MULTILINE)
    beside.write_text(part.sub("", file.read_text(encoding="utf-8")), encoding="utf-8")
    return beside


def _exports(folder: Path, patients: int, seed: int, split: str) -> dict[str, Path]:
    files = {name: synthesize(folder, hospital=name, patients=patients, seed=seed) for name in HOSPITALS}
    for file in files.values():
        text = file.read_text(encoding="utf-8")
        if "[split]" not in text:
            file.write_text(f"{text}\n[split]\n{split}\n", encoding="utf-8")
    return files
