"""The directory of a run: made once, resumed by the same command, and never by two commands at a time."""

import json
import os
import platform
import secrets
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from server.journal import FILE, Journal
from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, Fault
from shared_model.locking import alone
from shared_model.protocol import StudyProtocol

LOCK = ".lock"
COMMAND = "command.json"
REPORTED = ("consilium", "flwr", "torch", "torchvision", "numpy", "pandas", "scikit-learn", "opacus")

_OURS = {"consilium-center", "cli.py"}


@dataclass(frozen=True)
class RunPlan:
    """What decides a run: protocol, names of the sites, seed; and what carries its messages."""

    protocol: StudyProtocol
    study_file: Path
    sites: Collection[str]
    out: Path
    seed: int
    engine: str
    threads: int


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold the run directory, and tell in it which command does, for whoever wants to stop or resume the run.

    Raises:
        StudyError: another command is at work in it.
    """
    with alone(out / LOCK, otherwise=f"another command is at work in {out}: wait for it, or end it"):
        if Path(sys.argv[0]).name in _OURS:
            arguments = [sys.executable, "-m", "server.cli", *sys.argv[1:]]
            document = {"arguments": arguments, "folder": str(Path.cwd()), "process": os.getpid()}
            write_durably(out / COMMAND, json.dumps(document, indent=2).encode())
        yield


def is_made(out: Path) -> bool:
    """Whether there is a run in ``out``."""
    return (out / FILE).exists()


def create(plan: RunPlan) -> None:
    """Start the journal of a new run."""
    out, protocol = plan.out, plan.protocol
    versions = {name: _version(name) for name in REPORTED} | {"python": platform.python_version()}
    environment = {"versions": versions, "platform": platform.platform(), "cpus": os.cpu_count(), "threads": plan.threads}
    write_durably(out / "study.toml", plan.study_file.read_bytes())
    write_durably(out / "protocol.json", protocol.canonical_json.encode())
    write_durably(out / "environment.json", json.dumps(environment, indent=2).encode())
    Journal.create(
        out,
        protocol,
        run=secrets.token_hex(8),
        engine=plan.engine,
        seed=plan.seed,
        enrolled=tuple(sorted(plan.sites)),
        versions=versions,
    ).close()


def refuse_another_run(plan: RunPlan) -> None:
    """Make sure that ``plan.out`` holds this run, or none.

    Raises:
        ConfigurationError: it holds the run of something else.
    """
    if not is_made(plan.out):
        return
    with Journal(plan.out) as journal:
        differences = {
            "protocol": (journal.protocol.sha256[:12], plan.protocol.sha256[:12]),
            "seed": (str(journal.seed), str(plan.seed)),
            "sites": (", ".join(journal.enrolled), ", ".join(sorted(plan.sites))),
        }
    faults = [
        Fault(
            str(plan.out),
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
