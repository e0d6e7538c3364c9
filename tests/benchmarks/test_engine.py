"""What a round costs beyond training: seconds, bytes and the center's memory, as ratios that carry over to other machines.

``make bench`` prints the tables; nothing here is asserted, for a loaded machine proves nothing.
"""

import json
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch

from server.aggregation import Krum, WeightedMean
from server.journal import Journal
from server.simulation import InProcessGrid
from server.sites import Roster
from server.study import conduct
from shared_model import messages
from shared_model.messages import DescribeReply, Envelope, Message, TrainReply
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from shared_model.summaries import CohortFlow, Moments, PartCounts

pytestmark = pytest.mark.benchmark


def protocol(rounds: int, width: int) -> StudyProtocol:
    document = {
        "study": {"name": "bench", "title": "t", "outcome": "o"},
        "variables": {"a": {"kind": "numeric"}},
        "network": {"kind": "clinical_only", "width": width, "heads": 8, "joint_blocks": 6},
        "training": {"epochs": 1},
        "federation": {"rounds": rounds},
        "evaluation": {"selection": "last"},
    }
    return StudyProtocol.model_validate_json(json.dumps(document))


class Idle:
    """A site that does not train: it answers with an update of the right size."""

    def __init__(self, name: str, update: np.ndarray) -> None:
        self.name = name
        self.update = update

    def handle(self, envelope: Envelope) -> Envelope:
        record = messages.decode(envelope).record
        attempt = record.task.attempt  # type: ignore[union-attr]
        if record.kind == "describe":
            counts = PartCounts(10, 5)
            return messages.encode(
                Message(
                    DescribeReply(
                        site=self.name,
                        attempt=attempt,
                        flow=CohortFlow(10, {}, 0, 0),
                        parts={"train": counts, "tune": PartCounts(0, 0), "test": PartCounts(0, 0)},
                        moments={"a": Moments(10, 0.0, 10.0)},
                        categories={},
                        missing={"a": 0},
                        modalities={"clinical": 10},
                        seconds=0.0,
                    )
                )
            )
        reply = TrainReply(self.name, attempt, patients=10, steps=1, loss=0.5, tune=None, seconds=0.0)
        return messages.encode(Message(reply, {"update": self.update}))


def test_overhead_of_a_round_by_number_of_sites(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = 3
    settings = protocol(rounds, width=512)
    size = ParameterSpec.of(build_network(settings, normalization=None, seed=0)).size
    update = np.full(size, 1e-6, np.float32)
    lines = [
        f"model of {4 * size / 1e6:.1f} MB, in-process engine, durable journal",
        "sites  s/round  MB/site/round  center RSS MB",
    ]
    for count in (2, 4, 8, 16):
        sites = {f"site-{number}": Idle(f"site-{number}", update) for number in range(count)}
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            Journal.create(out, settings, run="b", engine="in-process", seed=0, enrolled=tuple(sites), versions={}).close()
            grid = InProcessGrid(sites)
            conduct(Roster(grid, poll_s=0.05), out)
            grid.close()
            with Journal(out) as journal:
                record = journal.record()
        traffic = (record.traffic.bytes_down + record.traffic.bytes_up) / rounds / count / 1e6
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        wall = np.median([r.wall_s for r in record.rounds])
        lines.append(f"{count:5d}  {wall:7.2f}  {traffic:13.1f}  {memory:13.0f}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def test_memory_of_aggregation_does_not_grow_with_sites(capsys: pytest.CaptureFixture[str]) -> None:
    import tracemalloc

    size = 2_000_000
    lines = ["aggregation of 8 MB updates: peak in units of one update", "sites  weighted_mean  krum"]
    for count in (5, 10, 20):
        peaks = []
        for rule in (WeightedMean(size), Krum(1)):
            tracemalloc.start()
            for number in range(count):
                rule.add(f"{number:03d}", np.full(size, number, np.float32), weight=1)
            rule.result()
            peaks.append(tracemalloc.get_traced_memory()[1] / (4 * size))
            tracemalloc.stop()
        lines.append(f"{count:5d}  {peaks[0]:13.1f}  {peaks[1]:4.1f}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def test_local_training_against_the_bare_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """Patients a second of ``train_locally`` on two views of 128 px, relative to forward, backward and step alone."""
    from client.cohort.tensors import CohortTensors
    from client.training.loop import train_locally
    from client.training.rules import plain

    document = json.loads(protocol(1, 64).canonical_json)
    document["images"] = {"size": 128, "views": {"a": {}, "b": {}}}
    document["network"] |= {"kind": "multimodal", "joint_blocks": 1}
    document["training"] = {"epochs": 1, "batch_size": 16, "augmentation": {"flip": True, "rotate_degrees": 10, "gamma": 0.2}}
    settings = StudyProtocol.model_validate_json(json.dumps(document))
    patients = 96
    none = torch.zeros(patients, 0, dtype=torch.int64)
    cohort = CohortTensors(
        images=torch.randint(0, 256, (2 * patients, 1, 128, 128), dtype=torch.uint8),
        slots=torch.arange(2 * patients).reshape(patients, 2),
        views=torch.tensor([[0, 1]]).expand(patients, 2).clone(),
        numeric=torch.randn(patients, 1),
        numeric_present=torch.ones(patients, 1, dtype=torch.bool),
        categorical=none,
        label=(torch.arange(patients) % 2).float(),
    )
    from shared_model.summaries import Normalization

    network = build_network(settings, normalization=Normalization((0.0,), (1.0,), ()), seed=0)
    index = torch.arange(patients)

    def ours() -> None:
        train_locally(
            network, cohort, index, training=settings.training, parameters=list(network.parameters()), correction=plain,
            round_=1, rounds=1, seed=0,
        )  # fmt: skip

    batches = [cohort.batch(members) for members in torch.split(index, 16)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def bare() -> None:
        network.train()
        for batch in batches:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(batch), batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    seconds = {name: min(_timed(work) for _ in range(3)) for name, work in (("train_locally", ours), ("bare loop", bare))}
    ratio = seconds["train_locally"] / seconds["bare loop"]
    with capsys.disabled():
        print(f"\ntrain_locally takes {ratio:.2f} x the bare loop (fetching, augmentation, schedule besides)")
        print(f"{patients / seconds['train_locally']:.0f} patients/s")


def _timed(work: object) -> float:
    started = perf_counter()
    work()  # type: ignore[operator]
    return perf_counter() - started
