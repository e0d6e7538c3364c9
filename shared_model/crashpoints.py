"""Named places in the code at which a test lets the process die, as a power cut would, or holds it still to harm another.

Nothing here does anything unless one of two environment variables is set. ``CONSILIUM_CRASH_AT`` is ``name``, or ``name:N``
for the N-th time. ``CONSILIUM_CRASH_PLAN`` is a folder: a file of a point's name in it, put there while the process runs, says
``kill`` or ``hold``. The first process that passes renames it to ``name.reached``, and so is the only one to act on it; held,
it goes on when that file is gone.
"""

import os
import signal
from pathlib import Path
from time import sleep

VARIABLE, PLAN = "CONSILIUM_CRASH_AT", "CONSILIUM_CRASH_PLAN"
KILL, HOLD = "kill", "hold"
REACHED = ".reached"
_STEP_S = 0.02
_passed: dict[str, int] = {}


def crashpoint(name: str) -> None:
    """Die here, or wait here, if a test asks for it; otherwise do nothing."""
    if wanted := os.environ.get(VARIABLE):
        _die_if_counted(name, wanted)
    if plan := os.environ.get(PLAN):
        _follow(Path(plan) / name)


def _die_if_counted(name: str, wanted: str) -> None:
    point, _, count = wanted.partition(":")
    if point != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


def _follow(armed: Path) -> None:
    reached = armed.with_name(f"{armed.name}{REACHED}")
    try:
        armed.rename(reached)
    except FileNotFoundError:
        return
    if reached.read_text(encoding="utf-8") == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    while reached.exists():
        sleep(_STEP_S)
