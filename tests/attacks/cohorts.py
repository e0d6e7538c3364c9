"""Cohorts and workers that attacks are tried on. What an attacker is after is known here, so that success can be told."""

from pathlib import Path

import numpy as np
import torch

from client.cohort import CohortTensors, StudyPatients
from client.site_config import Policy
from client.state import lasting
from client.worker import Worker
from shared_model import messages
from shared_model.messages import AnyRecord, Message, Request, Task, TrainRequest
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Normalization
from tests.sites import LAX, AnyProtocol, cut

SHIPPED = Policy()
UNGUARDED = LAX
SEED = 7


def tabular(*, patients: int, variables: int, seed: int = 0, random_labels: bool = False) -> CohortTensors:
    """Standard normal variables, of which the first tells the outcome unless labels are random."""
    generator = torch.Generator().manual_seed(seed)
    numeric = torch.randn(patients, variables, generator=generator)
    score = torch.randn(patients, generator=generator) + (0.0 if random_labels else 2.0) * numeric[:, 0]
    none = torch.zeros(patients, 0, dtype=torch.int64)
    return CohortTensors(
        images=torch.zeros(0, 1, 16, 16, dtype=torch.uint8),
        slots=none,
        views=none,
        numeric=numeric,
        numeric_present=torch.ones(patients, variables, dtype=torch.bool),
        categorical=none,
        label=(score > 0).float(),
    )


def all_training(data: CohortTensors) -> StudyPatients:
    """Everybody trains: nothing is tuned or tested on."""
    return cut(data, shares=(1.0, 0.0, 0.0))


def site(folder: Path, patients: StudyPatients, *, policy: Policy = SHIPPED, name: str = "north") -> Worker:
    """A worker over ``patients``, of a hospital that has approved what is asked."""
    return Worker(name, policy=policy, load=lambda _: patients, state=folder, approvals=AnyProtocol(lasting(folder, name)))


def plain_scale(settings: StudyProtocol) -> Normalization | None:
    """Variables as they are."""
    count = len(settings.variables)
    return Normalization(mean=(0.0,) * count, scale=(1.0,) * count, frequency=()) if count else None


def start_model(settings: StudyProtocol) -> tuple[ParameterSpec, np.ndarray]:
    """Layout of the parameters and the model that the center sends first."""
    network = build_network(settings, normalization=plain_scale(settings), seed=SEED)
    spec = ParameterSpec.of(network, personal=settings.federation.personal)
    return spec, spec.to_vector(network)


def task(settings: StudyProtocol, **changes: object) -> Task:
    """What the center states, unless it lies."""
    stated = {"run": "r", "site": "north", "round": 1, "attempt": "a", "protocol_json": settings.canonical_json, "seed": SEED}
    return Task(**(stated | changes))  # type: ignore[arg-type]


def ask(worker: Worker, request: Request, **vectors: np.ndarray) -> Message[AnyRecord]:
    """The site's answer."""
    return messages.decode(worker.handle(messages.encode(Message(request, vectors))))


def trained(worker: Worker, settings: StudyProtocol, weights: np.ndarray | None = None) -> np.ndarray | None:
    """The update that the site sends for one round from ``weights``; None if it declines."""
    spec, start = start_model(settings)
    request = TrainRequest(task(settings), spec.sha256, plain_scale(settings), basis=0)
    return ask(worker, request, weights=start if weights is None else weights).vectors.get("update")
