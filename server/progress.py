"""Live progress of a run, read from its journal, so that it looks the same whatever engine carries the messages."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from server.journal import FILE, Journal

POLL_S = 0.25


class ProgressDisplay:
    """Shows round, phase, sites and time left of the run in ``directory`` while the ``with`` block lasts.

    On a terminal a live bar; elsewhere (a pipe, a log file) one line a round.
    """

    def __init__(self, directory: Path, *, console: Console, label: str = "study", one_line: bool = False) -> None:
        self.directory = directory
        self.console = console
        self.label = label
        self.one_line = one_line
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._seen = 0
        self._state: dict[str, Any] = {
            "phase": "starting",
            "round": 0,
            "rounds": None,
            "waiting": [],
            "started": None,
            "first": 0,
        }
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        if (self.directory / FILE).exists():
            with Journal(self.directory) as journal:
                self._seen = max((number for number, _, _ in journal.events()), default=0)
        self._bar.start()
        self._task = self._bar.add_task(self.label, total=None, text="starting")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.stop()

    def _watch(self) -> None:
        while True:
            last = self._stop.wait(POLL_S)
            if (self.directory / FILE).exists():
                # On a disk that fails the journal cannot be opened; who writes it tells.
                with suppress(sqlite3.OperationalError), Journal(self.directory) as journal:
                    for number, kind, body in journal.events(after=self._seen):
                        self._seen = number
                        self._tell(kind, body)
            self._show()
            if last:
                return

    def _tell(self, kind: str, body: dict[str, Any]) -> None:
        state = self._state
        if kind == "phase":
            state["phase"] = body["name"]
        elif kind == "restored":
            state |= {"round": body["round"], "rounds": body["rounds"], "first": body["round"], "started": monotonic()}
            if body["round"]:
                self._print(f"continues after round {body['round']}")
        elif kind == "round":
            state["round"] = body["round"]
        elif kind == "asked":
            state["waiting"] = list(body["sites"])
        elif kind == "answered":
            state["waiting"] = [site for site in state["waiting"] if site != body["site"]]
        elif kind == "failed":
            state["waiting"] = [site for site in state["waiting"] if site != body["site"]]
            self._print(f"[yellow]site {body['site']} does not count ({body['phase']}): {escape(body['reason'])}[/yellow]")
        elif kind == "warning":
            self._print(f"[yellow]{escape(body['text'])}[/yellow]")
        elif kind == "committed":
            self._round_done(body)

    def _round_done(self, body: dict[str, Any]) -> None:
        if self.one_line:
            return
        judged = ""
        if body["selection"] is not None and body["round"] > 1:
            # Losses are kept negated, so that larger is better; nobody reads them so.
            metric, score = body["metric"].replace("_", " "), abs(body["selection"])
            judged = f", model of round {body['round'] - 1}: tuning {metric} {score:.3f}"
        self._print(f"round {body['round']}/{self._state['rounds']} in {body['seconds']:.1f} s{judged}{self._left()}")

    def _left(self) -> str:
        state = self._state
        done = state["round"] - state["first"]
        if not state["rounds"] or done < 1:
            return ""
        remaining = (monotonic() - state["started"]) / done * (state["rounds"] - state["round"])
        return f", about {remaining:.0f} s left" if remaining >= 1 else ""

    def _show(self) -> None:
        state = self._state
        waiting = ", ".join(state["waiting"])
        text = f"{state['phase']}{': waiting for ' + waiting if waiting else ''}{self._left()}"
        if state["rounds"]:
            text = f"round {state['round']}/{state['rounds']}  {text}"
        self._bar.update(self._task, completed=state["round"], total=state["rounds"], text=text)

    def _print(self, line: str) -> None:
        self._bar.console.print(f"  {self.label}: {line}", highlight=False, soft_wrap=True)
