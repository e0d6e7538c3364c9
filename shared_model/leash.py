"""Processes that do not outlive their parent, however that ends: ``python leash.py PARENT_PID COMMAND...`` runs a command so.

The kernel kills them when the parent is gone, even by ``kill -9``, when no handler of the parent's runs (Linux; a no-op
elsewhere). As a command of its own, because this must not be set between fork and exec in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent, whose process id was ``parent``, ends; or end at once if it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent has gone already")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
