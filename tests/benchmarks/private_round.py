"""One round of training with or without differential privacy in a process of its own: what it costs.

``python -m tests.benchmarks.private_round ARM TRAINABLE PHYSICAL_BATCH`` prints CPU seconds a patient, and by how many MB the
process's peak memory grew.
"""

import json
import resource
import sys
from time import process_time

import torch

from client.cohort.tensors import CohortTensors
from client.training.loop import train_locally
from client.training.private import train_privately
from client.training.rules import plain
from shared_model.network import build_network
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Normalization

PATIENTS, STEPS, SIZE, VIEWS = 32, 6, 64, 3


def settings(*, trainable: str = "all") -> StudyProtocol:
    """The default network with three views of 64 px."""
    document = {
        "study": {"name": "bench", "title": "t", "outcome": "o"},
        "variables": {name: {"kind": "numeric"} for name in "abcdefgh"},
        "images": {"size": SIZE, "per_patient": VIEWS, "views": {"a": {}, "b": {}, "c": {}}},
        "training": {"steps": STEPS, "batch_size": PATIENTS},  # nobody is left to chance: both arms compute as many
        "federation": {"rounds": 1},
        "privacy": {"trainable": trainable, "dp": {"epsilon": 8.0}},
    }
    return StudyProtocol.model_validate_json(json.dumps(document))


def cohort() -> CohortTensors:
    return CohortTensors(
        images=torch.randint(0, 256, (VIEWS * PATIENTS, 1, SIZE, SIZE), dtype=torch.uint8),
        slots=torch.arange(VIEWS * PATIENTS).reshape(PATIENTS, VIEWS),
        views=torch.arange(VIEWS).expand(PATIENTS, VIEWS).clone(),
        numeric=torch.randn(PATIENTS, 8),
        numeric_present=torch.ones(PATIENTS, 8, dtype=torch.bool),
        categorical=torch.zeros(PATIENTS, 0, dtype=torch.int64),
        label=(torch.arange(PATIENTS) % 2).float(),
    )


def measure(*, private: bool, trainable: str, physical_batch: int) -> tuple[float, float]:
    """CPU seconds a patient, and how much the process's peak memory grows, in MB."""
    torch.set_num_threads(1)
    protocol, patients = settings(trainable=trainable), cohort()
    assert protocol.privacy.dp is not None
    network = build_network(protocol, normalization=Normalization((0.0,) * 8, (1.0,) * 8, ()), seed=0)
    index = torch.arange(PATIENTS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = process_time()
    if private:
        train_privately(
            network, patients, index, training=protocol.training, parameters=[], correction=plain, round_=1, rounds=1,
            dp=protocol.privacy.dp.model_copy(update={"physical_batch": physical_batch}), noise_multiplier=1.0,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    else:
        train_locally(
            network, patients, index, training=protocol.training, parameters=[], correction=plain, round_=1, rounds=1, seed=0
        )
    seconds = process_time() - started
    return seconds / (STEPS * PATIENTS), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    print(*measure(private=sys.argv[1] == "private", trainable=sys.argv[2], physical_batch=int(sys.argv[3])))
