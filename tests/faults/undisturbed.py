"""The run that nothing disturbed: the same sites, seed and run, in this process, in which the same sites count in each round.

Whatever a run went through, its checkpoints and results are to be the bits of that one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.numpy import load_file

from client.worker import open_site
from server.journal import Journal
from server.records import RunRecord
from server.sites import Answer
from server.study import conduct
from shared_model import messages
from shared_model.errors import FailureCode
from shared_model.messages import Envelope, EvaluateReply, Request, TrainRequest
from tests.sites import Loopback


def differences(run: Path, sites: Mapping[str, Path], out: Path) -> list[str]:
    """What of the finished run in ``run`` is not as in an undisturbed run, which is made in ``out``."""
    record = read(run)
    again = repeat(record, sites, out)
    found = []
    if len(record.rounds) != len(again.rounds):
        found.append(f"I6: {len(record.rounds)} rounds, undisturbed {len(again.rounds)}")
    for ours, theirs in zip(record.rounds, again.rounds, strict=False):
        if ours.checkpoint_sha256 != theirs.checkpoint_sha256:
            found.append(f"I6: the model of round {ours.round} is not that of an undisturbed run")
        if ours.selection != theirs.selection:
            found.append(f"I6: round {ours.round} was judged {ours.selection}, undisturbed {theirs.selection}")
    if record.best_round != again.best_round:
        found.append(f"I6: the best round is {record.best_round}, undisturbed {again.best_round}")
    elif tensors(run) != tensors(out):
        found.append("I6: the exported model is not that of an undisturbed run")
    elif numbers(record.evaluations) != numbers(again.evaluations):
        found.append("I6: evaluations differ from those of an undisturbed run")
    return found


def repeat(record: RunRecord, sites: Mapping[str, Path], out: Path) -> RunRecord:
    """Run the study of ``record`` anew in ``out``, with the sites that counted there in each round."""
    journal = Journal.create(
        out,
        record.protocol,
        run=record.run,
        engine="in-process",
        seed=record.seed,
        enrolled=record.enrolled,
        versions=record.versions,
    )
    if record.descriptions:
        journal.set_normalization(record.normalization)  # of those who were there first
    journal.close()
    workers = {name: open_site(sites[name], state=out / "sites", threads=1) for name in record.descriptions}
    for worker in workers.values():
        worker.approve(record.protocol, by="a test")
    conduct(_Repeated(workers, record=record), out)  # type: ignore[arg-type]
    return read(out)


@dataclass
class _Repeated(Loopback):
    record: RunRecord | None = None

    def ask(self, requests: Mapping[str, Envelope], *, deadline_s: float, give_up: object = None) -> Iterator[Answer]:
        asked = {site: messages.decode(envelope).record for site, envelope in requests.items()}
        takes_part = {site: envelope for site, envelope in requests.items() if self._took_part(site, asked[site])}
        yield from (Answer(site, None, FailureCode.UNREACHABLE, 0.0) for site in requests if site not in takes_part)
        yield from super().ask(takes_part, deadline_s=deadline_s)

    def _took_part(self, site: str, asked: object) -> bool:
        assert self.record is not None
        assert isinstance(asked, Request)
        if isinstance(asked, TrainRequest):
            record = next((r for r in self.record.rounds if r.round == asked.task.round), None)
            return record is not None and site in record.sites
        if asked.kind == "evaluate" and asked.task.round == self.record.best_round:
            return site in self.record.evaluations
        return True


def read(run: Path) -> RunRecord:
    with Journal(run) as journal:
        return journal.record()


def tensors(run: Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(run / "models" / "best.safetensors").items()}


def numbers(evaluations: Mapping[str, EvaluateReply]) -> list[str]:
    """Evaluations without what is of the moment."""
    plain: Sequence[EvaluateReply] = [
        replace(reply, attempt="", seconds=0.0, head=None) for _, reply in sorted(evaluations.items())
    ]
    return [json.dumps(repr(reply)) for reply in plain]
