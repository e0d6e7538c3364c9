"""Who may talk to the worker: the kernel tells which user a process belongs to that connects to a Unix socket.

gRPC does not show those credentials, so that its own socket is hidden in a folder that only the worker's user can enter, and
connections to the public socket are looked at first and then passed through, byte by byte. What this guarantees: no process
of another user than those named has ever sent the worker a byte, whatever the permissions of the public socket are. What it
does not: root, and processes of an allowed user, get in; which of them it is cannot be told apart.
"""

import contextlib
import logging
import os
import shutil
import socket as sockets
import struct
import tempfile
from collections.abc import Collection
from pathlib import Path
from threading import Thread

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_PIECE = 256 * 1024
_BACKLOG = 16

log = logging.getLogger(__name__)


def peer(stream: sockets.socket) -> tuple[int, int]:
    """Process id and user id of who connected ``stream``, or of who listens at its other end; as the kernel saw it then."""
    raw = stream.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


class Doorkeeper:
    """Listens at ``public`` and passes connections of the users ``allowed`` through to ``private``, the path of a socket
    in a folder of its own that exists as long as this does."""

    def __init__(self, public: Path, *, allowed: Collection[int]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="consilium-"))  # of mode 0700
        self.private = self._folder / "worker.sock"
        self._public = public
        self._allowed = frozenset(allowed)
        self._listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)

    def open(self) -> None:
        """Start to listen. Others than the owner can connect only if other users are allowed, and are then told apart."""
        alone = self._allowed <= {os.getuid()}
        previous = os.umask(0o177 if alone else 0o111)
        try:
            self._listener.bind(str(self._public))
        finally:
            os.umask(previous)
        self._listener.listen(_BACKLOG)
        Thread(target=self._welcome, name="doorkeeper", daemon=True).start()

    def close(self) -> None:
        """Stop to listen, and remove both sockets."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(sockets.SHUT_RDWR)
        self._listener.close()
        self._public.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _welcome(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            pid, uid = peer(visitor)
            if uid not in self._allowed:
                log.warning("refused process %d of user %d; allowed: %s", pid, uid, ", ".join(map(str, sorted(self._allowed))))
                visitor.close()
                continue
            inside = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
            try:
                inside.connect(str(self.private))
            except OSError:
                visitor.close()
                inside.close()
                continue
            Thread(target=_serve, args=(visitor, inside), name="door", daemon=True).start()


def _serve(visitor: sockets.socket, inside: sockets.socket) -> None:
    """Copy both ways until both have no more."""
    back = Thread(target=_pass_on, args=(inside, visitor), name="door back", daemon=True)
    back.start()
    with visitor, inside:
        _pass_on(visitor, inside)
        back.join()


def _pass_on(source: sockets.socket, target: sockets.socket) -> None:
    """Copy until ``source`` has no more, and say so to ``target``."""
    buffer = memoryview(bytearray(_PIECE))
    try:
        while count := source.recv_into(buffer):
            target.sendall(buffer[:count])
        target.shutdown(sockets.SHUT_WR)
    except OSError:
        for stream in (source, target):
            with contextlib.suppress(OSError):
                stream.shutdown(sockets.SHUT_RDWR)
