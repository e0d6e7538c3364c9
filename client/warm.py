"""Relays that start in no time: one process has imported everything, and becomes a copy of itself for each message.

Flower's SuperExec starts ``flwr-clientapp`` anew for each message, which costs a second or two of CPU for imports alone. In
``FOLDER``, which ``consilium-site join`` puts first in the SuperNode's PATH, a command of that name hands its arguments to
this process, whose copy runs Flower's own command with them. Without this process it runs that command itself.

``python -m client.warm FOLDER`` is the process.
"""

import json
import os
import signal
import socket as sockets
import sys
import sysconfig
from pathlib import Path

COMMAND = "flwr-clientapp"
SOCKET = "warm.sock"
_LIMIT = 65_536
_LAUNCHER = """\
#!{python} -IS
import json, os, socket, sys
try:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "{socket}"))
        stream.sendall(json.dumps(sys.argv).encode())
        stream.shutdown(socket.SHUT_WR)
        if stream.recv(1) == b"+":
            sys.exit(0)
except OSError:
    pass
os.execv("{command}", sys.argv)
"""


def write_launcher(folder: Path) -> None:
    """Put the command into ``folder``, in the place of Flower's."""
    folder.mkdir(exist_ok=True, mode=0o700)
    real = Path(sysconfig.get_path("scripts")) / COMMAND
    launcher = folder / COMMAND
    launcher.write_text(_LAUNCHER.format(python=sys.executable, socket=SOCKET, command=real), encoding="utf-8")
    launcher.chmod(0o700)


def serve(folder: Path) -> None:
    """Become a copy for each message that arrives, for ever."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp

    import client.app

    assert run_clientapp
    assert client.app
    (folder / SOCKET).unlink(missing_ok=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the copies
    with sockets.socket(sockets.AF_UNIX) as listener:
        # The folder is the owner's alone. A path relative to it: the kernel allows 107 bytes.
        os.chdir(folder)
        listener.bind(SOCKET)
        listener.listen(64)
        while True:
            stream, _ = listener.accept()
            arguments = _arguments(stream)
            if arguments and os.fork() == 0:
                listener.close()
                stream.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                sys.argv = arguments
                flwr_clientapp()
                os._exit(0)
            stream.close()


def _arguments(stream: sockets.socket) -> list[str]:
    stream.settimeout(5.0)
    try:
        text = b""
        while len(text) < _LIMIT and (part := stream.recv(_LIMIT)):
            text += part
        arguments = json.loads(text)
        stream.sendall(b"+")
    except (OSError, ValueError):
        return []
    return [str(argument) for argument in arguments]


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve())
