"""From a study file and site files to a run directory with results: what ``consilium-center simulate`` does."""

import json
import os
import platform
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console

from server import baselines
from server.journal import FILE, Journal, write_durably
from server.progress import ProgressDisplay
from server.records import RunRecord
from server.results import write_results
from shared_model.errors import ConfigurationError, Fault
from shared_model.protocol import StudyProtocol, read_protocol

Engine = Literal["in-process", "flower", "ray"]
REPORTED = ("consilium", "flwr", "torch", "torchvision", "numpy", "pandas", "scikit-learn", "opacus")


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

    protocol = read_protocol(study_file)
    if rounds is not None:
        federation = protocol.federation.model_dump() | {"rounds": rounds}
        protocol = StudyProtocol.model_validate_json(json.dumps(protocol.model_dump(mode="json") | {"federation": federation}))
    sites = read_sites(site_files)
    simulation = Simulation(
        protocol=protocol,
        study_file=study_file,
        sites=sites,
        out=out,
        seed=seed,
        engine=engine,
        threads=threads or os.cpu_count() or 1,
    )
    _refuse_another_run(simulation)
    return simulation


def simulate(simulation: Simulation, *, with_baselines: bool, console: Console) -> RunRecord:
    """Run or resume to the end, with comparators if asked for, and write the results. Returns the finished run."""
    from server.simulation import central_worker, open_workers, run_engine, run_in_process

    workers = open_workers(simulation.sites, simulation.protocol, state=simulation.out / "sites", threads=simulation.threads)
    if not (simulation.out / FILE).exists():
        _create(simulation)
    with Journal(simulation.out) as journal:
        already = journal.finished
    if already:
        console.print(f"{simulation.out} holds this run, finished; nothing to train.")
    else:
        with ProgressDisplay(simulation.out, console=console):
            run_engine(simulation.engine, simulation.out, workers=workers, sites=simulation.sites, threads=simulation.threads)
    with Journal(simulation.out) as journal:
        record = journal.record()
    if with_baselines:
        pooled = central_worker(workers, state=simulation.out / "sites")
        for kind, site in baselines.missing_arms(record, simulation.out):
            label = "comparator: " + {"local": f"{site} alone", "central": "all patients in one place"}.get(
                kind, "logistic regression"
            )
            directory = simulation.out / baselines.FOLDER / (kind if site is None else f"{kind}-{site}")
            console.print(f"  {label}", highlight=False)
            with ProgressDisplay(directory, console=console, label=label, one_line=True):
                baselines.make_arm(
                    kind,
                    site,
                    record=record,
                    run_directory=simulation.out,
                    workers=workers,
                    pooled=pooled,
                    conduct=run_in_process,
                )
    report(simulation.out)
    return record


def report(out: Path) -> None:
    """Write results.json, per_site.csv, figures and report.html of the run in ``out`` as it stands.

    Raises:
        StudyError: there is no run in ``out``.
    """
    with Journal(out) as journal:
        record = journal.record()
    write_results(out, record, baselines.read_arms(out))


def _create(simulation: Simulation) -> None:
    out, protocol = simulation.out, simulation.protocol
    out.mkdir(parents=True, exist_ok=True)
    versions = {name: _version(name) for name in REPORTED} | {"python": platform.python_version()}
    environment = {"versions": versions, "platform": platform.platform(), "cpus": os.cpu_count(), "threads": simulation.threads}
    write_durably(out / "study.toml", simulation.study_file.read_bytes())
    write_durably(out / "protocol.json", protocol.canonical_json.encode())
    write_durably(out / "environment.json", json.dumps(environment, indent=2).encode())
    Journal.create(
        out,
        protocol,
        run=secrets.token_hex(8),
        engine=simulation.engine,
        seed=simulation.seed,
        enrolled=tuple(sorted(simulation.sites)),
        versions=versions,
    ).close()


def _refuse_another_run(simulation: Simulation) -> None:
    if not (simulation.out / FILE).exists():
        return
    with Journal(simulation.out) as journal:
        differences = {
            "protocol": (journal.protocol.sha256[:12], simulation.protocol.sha256[:12]),
            "seed": (str(journal.seed), str(simulation.seed)),
            "sites": (", ".join(journal.enrolled), ", ".join(sorted(simulation.sites))),
        }
    faults = [
        Fault(
            str(simulation.out),
            key,
            f"a run with {key} {there}",
            f"a run with {key} {here}, or no run",
            "choose another --out, or give the command with which that run was started",
        )
        for key, (there, here) in differences.items()
        if there != here
    ]
    if faults:
        raise ConfigurationError(faults)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
