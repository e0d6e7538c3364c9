"""Whether the site's worker answers the relay: asked once by ``consilium-site doctor``, and again and again by ``join``, for a
SuperNode without a worker is connected, and answers nothing."""

import os
import socket as sockets
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from client import serving
from client.checks import Check, Problem, check_of, skipped
from client.doorkeeper import peer

EVERY_S = 30.0
TIMEOUT_S = 10.0
_TITLE = "Worker"


def worker_check(socket: Path | None, *, site: str) -> Check:
    """Whether somebody answers at ``socket``, lets this user in, and is the worker of ``site``."""
    if socket is None:
        return skipped("worker", _TITLE, "needs --worker SOCKET")
    start = f"consilium-site worker SITE.toml --socket {socket} --state FOLDER"
    probe = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    with probe:
        probe.settimeout(TIMEOUT_S)
        try:
            probe.connect(str(socket))
            _, uid = peer(probe)
        except FileNotFoundError:
            return _failed(f"no {socket}", "the worker is not running here", start)
        except ConnectionRefusedError:
            return _failed(f"nobody at {socket}", "the worker has been killed", start)
        except OSError as error:
            remedy = f"start the worker with --allow-uid {os.getuid()}, and let this user enter {socket.parent}"
            return _failed(f"{socket}: {error.strerror or error}", "no access", remedy)
    try:
        name = serving.RemoteWorker(socket, timeout_s=TIMEOUT_S).name
    except (ConnectionError, RuntimeError) as error:
        what, remedy = f"it does not answer to user {os.getuid()}", f"start it with --allow-uid {os.getuid()}, or see its log"
        return _failed(f"of user {uid}: {error}", what, remedy)
    found = f"site {name}, of user {uid}; this is user {os.getuid()}"
    if name != site:
        return _failed(found, f"the worker is that of site {name}, the kit for {site}", "name the socket of the right worker")
    return check_of("worker", _TITLE, found)


def _failed(found: str, what: str, remedy: str) -> Check:
    return check_of("worker", _TITLE, found, failures=[Problem(what, remedy)])


class WorkerWatch:
    """Tells when the worker does not answer, and when it does again. Once it has answered, it is asked twice before that is
    told: it may just be starting again."""

    def __init__(self, socket: Path, *, site: str, tell: Callable[[str], None]) -> None:
        self._socket = socket
        self._site = site
        self._tell = tell
        self._told = ""
        self._missed, self._patience = 0, 0
        self._next = 0.0

    def look(self) -> None:
        """Ask, if it is time to."""
        if monotonic() < self._next:
            return
        check = worker_check(self._socket, site=self._site)
        self._next = monotonic() + EVERY_S
        if check.status == "pass":
            if self._told:
                self._tell("the worker answers")
            self._told, self._missed, self._patience = "", 0, 1
            return
        self._missed += 1
        problem = check.problems[0]
        text = f"warning: no request can be answered: {problem.what} ({check.found}). {problem.remedy}"
        if self._missed > self._patience and text != self._told:
            self._told = text
            self._tell(text)
