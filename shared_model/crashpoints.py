"""Named places in the code at which a test lets the process die, as a power cut would."""

import os
import signal

VARIABLE = "CONSILIUM_CRASH_AT"
_passed: dict[str, int] = {}


def crashpoint(name: str) -> None:
    """Kill this process if ``CONSILIUM_CRASH_AT`` is ``name``, or ``name:N`` at the N-th time; otherwise do nothing."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, count = wanted.partition(":")
    if point != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
