"""Designs beyond each site's own split: studies without one site, and cross-validation over patients.

Each is a study of its own in a folder of the run, conducted by the same recipe, with a journal from which it resumes:
``leave-one-out/<site>/`` and ``folds/<k>/``. Its protocol is the run's but for which patients are tested.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from server.journal import FILE, Journal
from server.records import Design, RunRecord
from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, Fault, StudyError
from shared_model.messages import CompareReply
from shared_model.protocol import StudyProtocol
from shared_model.protocol_design import Fold

LEFT_OUT = "leave-one-out"
FOLDS = "folds"
COMPARED = "compared"
HALTED = "halted"

_COMPARISON: TypeAdapter[CompareReply] = TypeAdapter(CompareReply)


@dataclass(frozen=True)
class SubRun:
    """A study that belongs to a run: its folder, protocol and sites, and what it is called."""

    directory: Path
    protocol: StudyProtocol
    sites: tuple[str, ...]
    label: str

    @property
    def name(self) -> str:
        """Its place in the run, as identifiers allow it."""
        return f"{self.directory.parent.name}-{self.directory.name}"


def without_each_site(record: RunRecord, run_directory: Path) -> list[SubRun]:
    """A study without each of the sites that take part: all labelled patients of that site are tested, for none of them had a
    part in training, in choosing the round, or in choosing thresholds.

    Raises:
        ConfigurationError: fewer than two sites take part.
    """
    external = record.protocol.evaluation.external
    partners = [site for site in record.enrolled if site not in external]
    if len(partners) < 2:
        found = f"{len(partners)} site that trains"
        raise ConfigurationError([Fault("--leave-one-site-out", "", found, "two or more", "name more sites")])
    return [
        SubRun(
            directory=run_directory / LEFT_OUT / site,
            protocol=_evaluating(record.protocol, external=(*external, site), fold=None),
            sites=record.enrolled,
            label=f"without {site}",
        )
        for site in partners
        if site in record.descriptions
    ]


def cross_validation(record: RunRecord, run_directory: Path, folds: int) -> list[SubRun]:
    """A study for each of ``folds`` folds. External sites have no part in it: they are evaluated once, by the run itself."""
    external = record.protocol.evaluation.external
    return [
        SubRun(
            directory=run_directory / FOLDS / str(k),
            protocol=_evaluating(record.protocol, external=(), fold=Fold(k=k, of=folds)),
            sites=tuple(site for site in record.enrolled if site not in external),
            label=f"fold {k} of {folds}",
        )
        for k in range(1, folds + 1)
    ]


def _evaluating(protocol: StudyProtocol, *, external: tuple[str, ...], fold: Fold | None) -> StudyProtocol:
    evaluation = protocol.evaluation.model_copy(update={"external": external, "fold": fold})
    return protocol.model_copy(update={"evaluation": evaluation})


def carry_out(sub: SubRun, record: RunRecord, conduct: Callable[[SubRun], None]) -> RunRecord:
    """Start, resume or leave as it is the study ``sub`` of the run ``record``; ``conduct`` is what trains it.

    Raises:
        ConfigurationError: its folder holds another study.
        StudyError: it cannot go on. The reason is kept in its journal, for the report.
    """
    if not (sub.directory / FILE).exists():
        Journal.create(
            sub.directory,
            sub.protocol,
            run=f"{record.run}-{sub.name}",
            engine="in-process",
            seed=record.seed,
            enrolled=sub.sites,
            versions=record.versions,
        ).close()
    with Journal(sub.directory) as journal:
        if journal.protocol.sha256 != sub.protocol.sha256 or journal.enrolled != sub.sites:
            remedy = "choose another --out, or the design with which that run was started"
            raise ConfigurationError(
                [Fault(str(sub.directory), "", "a study of another design", f"{sub.label}, or nothing", remedy)]
            )
        finished = journal.finished
    if not finished:
        try:
            conduct(sub)
        except (ConfigurationError, StudyError) as error:
            with Journal(sub.directory) as journal:
                journal.event(HALTED, reason=str(error))
            raise StudyError(f"{sub.label}: {error}") from None
    with Journal(sub.directory) as journal:
        return journal.record()


def keep_comparison(run_directory: Path, reply: CompareReply) -> None:
    """Keep what a site says of all folds together."""
    folder = run_directory / FOLDS / COMPARED
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / f"{reply.site}.json", _COMPARISON.dump_json(reply))


def read_design(run_directory: Path) -> Design:
    """The studies of the design that the run in ``run_directory`` has, finished or not."""
    left_out = {path.parent.name: _read(path.parent) for path in sorted((run_directory / LEFT_OUT).glob(f"*/{FILE}"))}
    folds = sorted((run_directory / FOLDS).glob(f"*/{FILE}"), key=lambda path: int(path.parent.name))
    compared = sorted((run_directory / FOLDS / COMPARED).glob("*.json"))
    replies = [_COMPARISON.validate_json(path.read_bytes()) for path in compared]
    return Design(
        left_out={site: record for site, (record, _) in left_out.items()},
        folds=tuple(_read(path.parent)[0] for path in folds),
        compared={reply.site: reply for reply in replies},
        halted={site: reason for site, (_, reason) in left_out.items() if reason},
    )


def _read(directory: Path) -> tuple[RunRecord, str]:
    """The study, and why it last halted if it is not finished."""
    with Journal(directory) as journal:
        record = journal.record()
        reasons: list[str] = [body["reason"] for _, kind, body in journal.events() if kind == HALTED]
    return record, "" if record.finished or not reasons else reasons[-1]
