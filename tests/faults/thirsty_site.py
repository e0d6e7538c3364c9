"""A site in a process of its own that is asked three times to train, and has no memory left the second time."""

import resource
from multiprocessing.connection import Connection
from pathlib import Path

from client.site_config import Policy
from shared_model import messages
from shared_model.messages import Message, Task, TrainRequest
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import StudyProtocol
from tests.sites import worker


def main(state: Path, protocol_json: str, answers: Connection) -> None:
    """Send what came back each time: the kind of the reply, or the code of a failure."""
    protocol = StudyProtocol.model_validate_json(protocol_json)
    site = worker("north", state, policy=Policy(minimum_cell=1))
    spec = ParameterSpec.of(build_network(protocol, normalization=None, seed=7))
    weights = spec.to_vector(build_network(protocol, normalization=None, seed=7))
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    for round_ in (1, 2, 3):
        task = Task(run="r", site="north", round=round_, attempt=f"a{round_}", protocol_json=protocol.canonical_json, seed=7)
        envelope = messages.encode(Message(TrainRequest(task, spec.sha256, None, basis=0), {"weights": weights}))
        if round_ == 2:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used, unlimited[1]))
        record = messages.decode(site.handle(envelope)).record
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
        answers.send(getattr(record, "code", record.kind))
