"""Run a command that does not outlive its parent, however that ends: ``python leash.py PARENT_PID COMMAND...``

The kernel kills the command when its parent is gone, even by ``kill -9``, when no handler of the parent's runs (Linux; a
no-op elsewhere). A file of its own, run by path: setting this between fork and exec is unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent has gone already")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
