"""Starting, stopping and resuming runs from the web page: the same commands that a person would give at the terminal.

A run directory keeps the command that works in it (``command.json``, written by the command itself). Nothing else is ever
executed: what the page sends chooses among studies and runs that are there, it is never a command or a path.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.journal import FILE
from server.run_directory import COMMAND, LOCK
from shared_model.errors import StudyError
from shared_model.locking import is_held

OUTPUT = "console.log"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Launchable:
    """A study that can be started: ``name`` is that of its folder, ``sites`` the names or files of its sites."""

    name: str
    study: Path
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Control:
    """Runs are in ``runs``; studies to start in ``studies`` (None: none), each a folder with a study.toml.

    With ``federation`` a study is run at the hospitals enrolled there; without, it is simulated with the site files beside it.
    """

    runs: Path
    studies: Path | None = None
    federation: Path | None = None

    def directory(self, name: str) -> Path:
        """The run directory ``name``.

        Raises:
            StudyError: there is none of that name.
        """
        if self.runs.resolve().name == name and (self.runs / FILE).exists():
            return self.runs
        if not _NAME.fullmatch(name) or not (self.runs / name / FILE).exists():
            raise StudyError("no run of that name")
        return self.runs / name

    def launchable(self) -> list[Launchable]:
        """Studies that can be started, by name."""
        if self.studies is None:
            return []
        found = []
        for study in sorted(self.studies.glob("*/study.toml")):
            files = sorted(path for path in study.parent.glob("*.toml") if not path.name.startswith("study"))
            sites = self._enrolled() if self.federation else tuple(map(str, files))
            if sites:
                found.append(Launchable(study.parent.name, study, sites))
        return found

    def start(self, study: str, name: str) -> None:
        """Start ``study`` as the new run ``name``.

        Raises:
            StudyError: no such study, no good name, or there is a run of that name.
        """
        chosen = next((known for known in self.launchable() if known.name == study), None)
        if chosen is None:
            raise StudyError("no study of that name")
        if not _NAME.fullmatch(name):
            raise StudyError("a run's name has letters, digits, '_' and '-' only")
        out = self.runs / name
        if out.exists():
            raise StudyError(f"there is a run {name!r} already: choose another name, or resume that one")
        out.mkdir(parents=True)
        self._spawn(self._command(chosen, out), out)

    def resume(self, name: str) -> None:
        """Give the command again that the run was started with.

        Raises:
            StudyError: it is at work, or the run does not say with which command it was started.
        """
        out = self.directory(name)
        if is_held(out / LOCK):
            raise StudyError("the run is at work already")
        if (known := _command_of(out)) is None:
            raise StudyError(
                f"the run does not say with which command it was started: resume it at the terminal, with --out {out}"
            )
        self._spawn(known.arguments, out, folder=known.folder)

    def stop(self, name: str) -> None:
        """End the command that works in the run: what was committed stays.

        Raises:
            StudyError: no command is at work, or it cannot be told which.
        """
        out = self.directory(name)
        if not is_held(out / LOCK):
            raise StudyError("no command is at work in the run")
        known = _command_of(out)
        if known is None or not _is(known):
            raise StudyError("it cannot be told which process is at work: stop it at the terminal")
        os.kill(known.process, signal.SIGTERM)

    def _command(self, chosen: Launchable, out: Path) -> list[str]:
        given = ["--out", str(out.resolve())]
        if self.federation is None:
            return [*_CENTER, "simulate", str(chosen.study.resolve()), *(str(Path(s).resolve()) for s in chosen.sites), *given]
        where = ["--federation", str(self.federation.resolve()), "--sites", ",".join(chosen.sites)]
        return [*_CENTER, "run", str(chosen.study.resolve()), *where, *given]

    def _enrolled(self) -> tuple[str, ...]:
        from server.provisioning import Federation

        assert self.federation is not None
        return tuple(name for name, site in Federation(self.federation).sites().items() if not site.revoked)

    def _spawn(self, arguments: Sequence[str], out: Path, *, folder: str | None = None) -> None:
        _children[:] = [child for child in _children if child.poll() is None]  # those that have ended are let go
        with (out / OUTPUT).open("ab") as output:
            child = subprocess.Popen(
                arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _children.append(child)


@dataclass(frozen=True)
class _Command:
    arguments: list[str]
    folder: str
    process: int


_children: list["subprocess.Popen[bytes]"] = []
_CENTER = (sys.executable, "-m", "server.cli")


def _command_of(out: Path) -> _Command | None:
    try:
        document = json.loads((out / COMMAND).read_text(encoding="utf-8"))
        return _Command(list(map(str, document["arguments"])), str(document["folder"]), int(document["process"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is(known: _Command) -> bool:
    """Whether the process is still that command, and not another that was given its number since."""
    try:
        arguments = Path(f"/proc/{known.process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return known.arguments[-1].encode() in arguments
