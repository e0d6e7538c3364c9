"""A worker that does not train: ``python -m tests.benchmarks.idle_worker NAME SOCKET STUDY MARKS`` answers at once with an
update of the right size, and notes when each request came and went."""

import json
import sys
import time
from pathlib import Path

import numpy as np

from client.serving import serve
from shared_model import messages
from shared_model.messages import Envelope, TrainRequest
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import read_protocol
from shared_model.summaries import Normalization
from tests.benchmarks.test_engine import Idle

MARKS = "marks.jsonl"


class Noting(Idle):
    """Notes the time of each training request."""

    def __init__(self, name: str, update: np.ndarray, marks: Path) -> None:
        super().__init__(name, update)
        self.marks = marks

    def handle(self, envelope: Envelope) -> Envelope:
        arrived = time.time()
        reply = super().handle(envelope)
        record = messages.decode(envelope).record
        if isinstance(record, TrainRequest):
            with self.marks.open("a") as file:
                file.write(json.dumps({"round": record.task.round, "arrived": arrived, "answered": time.time()}) + "\n")
        return reply


if __name__ == "__main__":
    name, socket, study, marks = sys.argv[1:]
    protocol = read_protocol(Path(study))
    network = build_network(protocol, normalization=Normalization((0.0,), (1.0,), ()), seed=0)
    update = np.full(ParameterSpec.of(network).size, 1e-6, np.float32)
    serve(Noting(name, update, Path(marks)), Path(socket))
