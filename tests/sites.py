"""Sites for tests of the study's recipe: real workers over made-up cohorts, and a roster that needs no Flower."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from client.cohort import CohortTensors, StudyPatients, designed
from client.governance.approval import JUDGED, Approval, Approvals
from client.site_config import Policy
from client.state import lasting
from client.worker import Worker
from server.sites import Answer
from shared_model.errors import FailureCode
from shared_model.messages import Envelope, Part
from shared_model.protocol import StudyProtocol
from shared_model.summaries import CohortFlow

PARTS: tuple[Part, ...] = ("train", "tune", "test")


def tensors(*, patients: int, seed: int, shift: float = 0.0, positives: float | None = None) -> CohortTensors:
    """Two numeric variables of which the first tells the outcome; ``positives`` fixes the share of positive labels."""
    generator = torch.Generator().manual_seed(seed)
    numeric = torch.randn(patients, 2, generator=generator) + shift
    label = (numeric[:, 0] - shift + 0.5 * torch.randn(patients, generator=generator) > 0).float()
    if positives is not None:
        label = (torch.arange(patients) < positives * patients).float()
    none = torch.zeros(patients, 0, dtype=torch.int64)
    return CohortTensors(
        images=torch.zeros(0, 1, 16, 16, dtype=torch.uint8),
        slots=none,
        views=none,
        numeric=numeric,
        numeric_present=torch.ones(patients, 2, dtype=torch.bool),
        categorical=none,
        label=label,
    )


def cut(data: CohortTensors, *, shares: tuple[float, float, float]) -> StudyPatients:
    """A cohort cut into parts in order of index."""
    cuts = [round(len(data) * share) for share in shares[:2]]
    pieces = torch.arange(len(data)).split([*cuts, len(data) - sum(cuts)])
    flow = CohortFlow(found=len(data), excluded={}, images_found=0, images_unusable=0)
    return StudyPatients(data, dict(zip(PARTS, pieces, strict=True)), flow, order=torch.arange(len(data)))


LAX = Policy(
    minimum_patients=1, minimum_cell=1, minimum_gradient=1
)  # for tests of the recipe, whose parts hold a dozen patients


def worker(site: str, folder: Path, *, policy: Policy | None = None, **made: object) -> Worker:
    """A real worker over a made-up cohort, without disclosure control unless a ``policy`` asks for it."""
    shares = made.pop("shares", (0.6, 0.2, 0.2))
    data = tensors(**({"patients": 60, "seed": sum(site.encode())} | made))  # type: ignore[arg-type]

    def load(protocol: StudyProtocol) -> StudyPatients:
        return designed(cut(data, shares=shares), protocol, site=site)  # type: ignore[arg-type]

    return Worker(site, policy=policy or LAX, load=load, state=folder, approvals=AnyProtocol(lasting(folder, site)))


class AnyProtocol(Approvals):
    """Approves whatever is asked for, for tests of something else."""

    def standing(self, protocol_sha256: str) -> Approval | None:
        return super().standing(protocol_sha256) or Approval(
            protocol_sha256,
            study="any",
            rounds=10_000,
            tasks=Policy().tasks,
            parts=JUDGED,
            epsilon=None,
            by="a test",
            at="",
            automatic=True,
        )


@dataclass
class Loopback:
    """A roster over workers in this process. ``tamper`` may change or lose (None) the reply of a site."""

    workers: Mapping[str, Worker]
    tamper: Callable[[str, Envelope, Envelope], Envelope | FailureCode] = lambda site, request, reply: reply
    away: set[str] = field(default_factory=set)
    order: Callable[[Sequence[str]], Sequence[str]] = sorted
    asked: list[tuple[str, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def connect(self, expected: Sequence[str], *, timeout_s: float) -> tuple[str, ...]:
        return tuple(site for site in expected if site in self.workers and site not in self.away)

    def refresh(self) -> None:
        pass

    @property
    def present(self) -> tuple[str, ...]:
        return tuple(site for site in self.workers if site not in self.away)

    def ask(self, requests: Mapping[str, Envelope], *, deadline_s: float, give_up: object = None) -> Iterator[Answer]:
        self.asked.append(tuple(requests))
        for site in self.order(list(requests)):
            if site in self.away:
                yield Answer(site, None, FailureCode.UNREACHABLE, 0.0)
                continue
            reply = self.tamper(site, requests[site], self.workers[site].handle(requests[site]))
            if isinstance(reply, Envelope):
                yield Answer(site, reply, None, 0.0)
            else:
                yield Answer(site, None, reply, 0.0)
