"""From a study file and site files to a run directory with results: what ``consilium-center simulate`` does."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from server import baselines, run_directory
from server.journal import Journal
from server.progress import ProgressDisplay
from server.records import RunRecord
from server.results import write_results
from server.run_directory import RunPlan
from shared_model.errors import ConfigurationError, Fault
from shared_model.protocol import StudyProtocol, read_protocol

if TYPE_CHECKING:
    from server.simulation import Worker

Engine = Literal["in-process", "flower", "ray"]


@dataclass(frozen=True)
class Simulation:
    """A run to start or to resume. ``sites`` maps names to site files."""

    protocol: StudyProtocol
    study_file: Path
    sites: dict[str, Path]
    out: Path
    seed: int
    engine: Engine
    threads: int

    @property
    def plan(self) -> RunPlan:
        """What decides the run."""
        return RunPlan(self.protocol, self.study_file, tuple(self.sites), self.out, self.seed, self.engine, self.threads)


def prepare(
    study_file: Path,
    site_files: Sequence[Path],
    *,
    out: Path,
    seed: int,
    rounds: int | None = None,
    engine: Engine = "in-process",
    threads: int | None = None,
) -> Simulation:
    """Check every file, and every site's data against the protocol, before anything is written.

    Raises:
        ConfigurationError: with the faults of all files together; or ``out`` holds the run of something else.
    """
    from server.simulation import read_sites

    faults: list[Fault] = []
    try:
        protocol = read_protocol(study_file)
    except ConfigurationError as error:
        faults += error.faults
    try:
        sites = read_sites(site_files)
    except ConfigurationError as error:
        faults += error.faults
    if faults:
        raise ConfigurationError(faults)
    if rounds is not None:
        protocol = protocol.model_copy(update={"federation": protocol.federation.model_copy(update={"rounds": rounds})})
    simulation = Simulation(
        protocol=protocol,
        study_file=study_file,
        sites=sites,
        out=out,
        seed=seed,
        engine=engine,
        threads=threads or os.cpu_count() or 1,
    )
    run_directory.refuse_another_run(simulation.plan)
    return simulation


def simulate(simulation: Simulation, *, with_baselines: bool, console: Console) -> RunRecord:
    """Run or resume to the end, with comparators if asked for, and write the results. Returns the finished run.

    Raises:
        ConfigurationError: sites' files do not fit; nothing is written then.
        StudyError: the study cannot go on, or another command is at work in the same run directory.
    """
    from server.simulation import open_workers

    out = simulation.out
    workers = open_workers(simulation.sites, simulation.protocol, state=out / "sites", threads=simulation.threads)
    out.mkdir(parents=True, exist_ok=True)
    with run_directory.alone_in(out):
        record = _train(simulation, workers, console)
        if with_baselines:
            _compare(record, workers, out, console)
        report(out)
    return record


def _train(simulation: Simulation, workers: "Mapping[str, Worker]", console: Console) -> RunRecord:
    from server.simulation import run_engine

    out = simulation.out
    if not run_directory.is_made(out):
        run_directory.create(simulation.plan)
    with Journal(out) as journal:
        finished = journal.finished
    if finished:
        console.print(f"{out} holds this run, finished; nothing to train.", soft_wrap=True)
    else:
        with ProgressDisplay(out, console=console):
            run_engine(simulation.engine, out, workers=workers, sites=simulation.sites, threads=simulation.threads)
    with Journal(out) as journal:
        return journal.record()


def _compare(record: RunRecord, workers: "Mapping[str, Worker]", out: Path, console: Console) -> None:
    from server.simulation import central_worker, run_in_process

    pooled = central_worker(workers, state=out / "sites")
    for arm in baselines.missing_arms(record, out):
        console.print(f"  comparator: {arm.label}", highlight=False)
        with ProgressDisplay(out / baselines.FOLDER / arm.name, console=console, label=arm.label, one_line=True):
            baselines.make_arm(arm, record=record, run_directory=out, workers=workers, pooled=pooled, conduct=run_in_process)


def report(out: Path) -> None:
    """Write results.json, per_site.csv, figures and report.html of the run in ``out`` as it stands.

    Raises:
        StudyError: there is no run in ``out``.
    """
    with Journal(out) as journal:
        record = journal.record()
    write_results(out, record, baselines.read_arms(out))
