"""Carrying out what a simulation does beyond the study itself, on this machine: comparators, folds, studies without a site."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from server import baselines, comparing, designs, pairing
from server.progress import ProgressDisplay
from server.records import Arm, ArmKind, RunRecord
from shared_model.errors import StudyError

if TYPE_CHECKING:
    from server.simulation import Worker


class Asked(Protocol):
    """What is to be carried out."""

    @property
    def arms(self) -> tuple[ArmKind, ...]:
        """Comparators of the run and of each fold."""

    @property
    def folds(self) -> int | None:
        """Folds of a cross-validation."""

    @property
    def leave_one_site_out(self) -> bool:
        """Whether there is a study without each site."""


def carry_out_design(record: RunRecord, workers: "Mapping[str, Worker]", out: Path, asked: Asked, console: Console) -> None:
    """Conduct, resume or leave as they are the studies that ``asked`` adds to the finished run ``record`` in ``out``.

    Raises:
        ConfigurationError: ``out`` holds another design.
        StudyError: some of them cannot go on; all others have been carried out.
    """
    halted: list[str] = []
    if asked.folds:
        halted += _cross_validate(record, workers, out, asked, console)
    if asked.leave_one_site_out:
        for sub in designs.without_each_site(record, out):
            _conduct(sub, record, workers, console, halted)
    if halted:
        raise StudyError("\n".join(["the run is finished, but not all studies of its design:", *halted]))


def make_arms(
    record: RunRecord,
    workers: "Mapping[str, Worker]",
    directory: Path,
    kinds: Sequence[ArmKind],
    console: Console,
    *,
    state: Path,
) -> list[Arm]:
    """The comparators of the study in ``directory``, trained if they are not there yet."""
    from server.simulation import central_worker, run_in_process

    pooled = central_worker(workers, state=state)
    for arm in baselines.missing_arms(record, directory, kinds):
        console.print(f"  comparator: {arm.label}", highlight=False)
        with ProgressDisplay(directory / baselines.FOLDER / arm.name, console=console, label=arm.label, one_line=True):
            baselines.make_arm(
                arm, record=record, run_directory=directory, workers=workers, pooled=pooled, conduct=run_in_process
            )
    return baselines.read_arms(directory)


def _cross_validate(
    record: RunRecord,
    workers: "Mapping[str, Worker]",
    out: Path,
    asked: Asked,
    console: Console,
) -> list[str]:
    """The reasons of folds that cannot go on."""
    assert asked.folds is not None
    halted: list[str] = []
    done: list[tuple[RunRecord, Sequence[Arm]]] = []
    for sub in designs.cross_validation(record, out, asked.folds):
        fold = _conduct(sub, record, workers, console, halted)
        if fold is not None:
            own = {site: workers[site] for site in sub.sites}
            arms = make_arms(fold, own, sub.directory, asked.arms, console, state=out / "sites") if asked.arms else []
            done.append((fold, arms))
    if len(done) == asked.folds and comparing.allowed(record.protocol):
        for reply in pairing.compare_over_folds(record, done, workers):
            designs.keep_comparison(out, reply)
    return halted


def _conduct(
    sub: designs.SubRun, record: RunRecord, workers: "Mapping[str, Worker]", console: Console, halted: list[str]
) -> RunRecord | None:
    from server.simulation import run_in_process

    def conduct(sub: designs.SubRun) -> None:
        console.print(f"  {sub.label}", highlight=False)
        with ProgressDisplay(sub.directory, console=console, label=sub.label, one_line=True):
            run_in_process({site: workers[site] for site in sub.sites}, sub.directory)

    try:
        return designs.carry_out(sub, record, conduct)
    except StudyError as error:
        halted.append(str(error))
        return None
