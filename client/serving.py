"""Between relay and worker: gRPC over a Unix socket, raw bytes, no protobuf.

A message travels as a frame with its two sizes, then header and payload in chunks. The sizes are checked before anything
is kept. Only processes of the users allowed can connect (``doorkeeper``); requests are answered one at a time.

``python -m client.serving SITE.toml --socket S --state DIR`` is the resident process of a site.
"""

import argparse
import logging
import os
import signal
import socket as sockets
import stat
import struct
import sys
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

import grpc

from client.doorkeeper import Doorkeeper
from client.residents import Resident
from shared_model.errors import CohortError, ConfigurationError, ConsiliumError, Fault, MessageError
from shared_model.locking import alone
from shared_model.messages import HEADER_LIMIT, PAYLOAD_LIMIT, Envelope

CHUNK = 2 * 2**20
STOP_GRACE_S = 2.0
PATH_LIMIT = 100  # the kernel allows 107 bytes
_SIZES = struct.Struct(">QQ")
_LOCK = "worker.lock"
_HANDLE, _NAME = "/consilium.Worker/Handle", "/consilium.Worker/Name"
_OPTIONS = [("grpc.max_receive_message_length", CHUNK + 1024), ("grpc.enable_http_proxy", 0)]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteWorker:
    """A worker behind its socket. Both members raise ``ConnectionError`` if nobody answers within ``timeout_s``."""

    socket: Path
    timeout_s: float

    @property
    def name(self) -> str:
        """Name of the worker's site."""
        with _channel(self.socket) as channel, _as_builtin_errors():
            return str(channel.unary_unary(_NAME)(b"", timeout=self.timeout_s), "utf-8")

    def handle(self, envelope: Envelope) -> Envelope:
        """Answer a request."""
        return call(self.socket, envelope, timeout_s=self.timeout_s)


def call(socket: Path, envelope: Envelope, *, timeout_s: float) -> Envelope:
    """Send a request to the worker at ``socket`` and wait for its answer.

    Raises:
        ConnectionError: nobody answers within ``timeout_s``, or the worker went away meanwhile.
        MessageError: what came back is no message, or is over the limits.
        RuntimeError: the worker could not read the request.
    """
    with _channel(socket) as channel, _as_builtin_errors():
        return _gather(channel.stream_stream(_HANDLE)(_frames(envelope), timeout=timeout_s))


def serve(worker: Resident, socket: Path, *, stop: Event | None = None, allowed: Collection[int] = ()) -> None:
    """Answer requests at ``socket`` until ``stop`` is set; without ``stop``, until SIGTERM or SIGINT. Processes of this user,
    and of the users ``allowed``, may connect.

    Raises:
        ConfigurationError: the path is no place for a private socket, or another worker answers there.
    """
    _claim(socket, shared=bool(set(allowed) - {os.getuid()}))
    door = Doorkeeper(socket, allowed={os.getuid(), *allowed})
    service = _Service(worker)
    server = grpc.server(ThreadPoolExecutor(max_workers=8, thread_name_prefix="relay"), options=_OPTIONS)
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"unix:{door.private}")
    server.start()
    door.open()
    log.info("site %s: answering at %s", worker.name, socket)
    try:
        (stop or _set_by_signals()).wait()
    finally:
        server.stop(STOP_GRACE_S).wait()
        door.close()
    if stop is None and service.busy:
        # Training would keep the process alive for as long as it takes. What a site remembers is written whole or not at all.
        logging.shutdown()
        os._exit(0)


def serve_site(
    config_path: Path, *, socket: Path, state: Path, threads: int | None = None, allowed: Collection[int] = ()
) -> None:
    """Run the worker of the site that ``config_path`` describes; returns after SIGTERM or SIGINT.

    Raises:
        ConfigurationError: with every fault of the file, or of the socket's place.
        StudyError: another worker is at work with this site's state.
    """
    from client.readiness import shortcomings
    from client.state import lasting
    from client.worker import open_site

    worker = open_site(config_path, state=state, threads=threads)
    folder = lasting(state, worker.name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with alone(folder / _LOCK, otherwise=f"another worker is at work in {folder}: end it first, or give another --state"):
        for shortcoming in shortcomings(config_path, state=state):
            log.warning("%s", shortcoming)
        serve(worker, socket, allowed=allowed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of ``python -m client.serving``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m client.serving", description="Run the resident worker of a site.")
    parser.add_argument("site", type=Path, help="the site's site.toml")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to answer at")
    parser.add_argument("--state", type=Path, required=True, help="folder for what the site remembers")
    parser.add_argument("--threads", type=int, help="CPU threads to use (default: all)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        serve_site(options.site, socket=options.socket, state=options.state, threads=options.threads)
    except ConsiliumError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError | CohortError) else 1
    return 0


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, worker: Resident) -> None:
        self._worker = worker
        self._one_at_a_time = Lock()
        self._methods = {
            _HANDLE: grpc.stream_stream_rpc_method_handler(self._handle),
            _NAME: grpc.unary_unary_rpc_method_handler(lambda request, context: self._worker.name.encode()),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(handler_call_details.method)

    @property
    def busy(self) -> bool:
        return self._one_at_a_time.locked()

    def _handle(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            reply = self._answer(frames, context)
        except MessageError as error:
            log.warning("refused a request: %s", error)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a message")
        except Exception:
            log.exception("a request failed")
            context.abort(grpc.StatusCode.INTERNAL, "the worker failed")
        yield from _frames(reply)

    def _answer(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Envelope:
        request = _gather(frames)
        with self._one_at_a_time:
            if not context.is_active():
                raise MessageError("its sender gave up while it waited for its turn")
            return self._worker.handle(request)


def _frames(envelope: Envelope) -> Iterator[bytes]:
    yield _SIZES.pack(len(envelope.header), len(envelope.payload))
    for part in (envelope.header, envelope.payload):
        view = memoryview(part)
        for start in range(0, len(part), CHUNK):
            yield bytes(view[start : start + CHUNK])


def _gather(frames: Iterator[bytes]) -> Envelope:
    try:
        header_size, payload_size = _SIZES.unpack(next(frames, b""))
    except struct.error:
        raise MessageError("a message starts with its sizes") from None
    if header_size > HEADER_LIMIT or payload_size > PAYLOAD_LIMIT:
        raise MessageError(f"message of {header_size} + {payload_size} bytes is over the limit")
    envelope = Envelope(_take(frames, header_size), _take(frames, payload_size))
    if next(frames, None) is not None:
        raise MessageError("a message goes on after its end")
    return envelope


def _take(frames: Iterator[bytes], size: int) -> bytes:
    chunks: list[bytes] = []
    missing = size
    while missing:
        chunk = next(frames, b"")
        if not 0 < len(chunk) <= missing:
            raise MessageError(f"a part of {size} bytes has another size")
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


@contextmanager
def _channel(socket: Path) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
        yield channel


@contextmanager
def _as_builtin_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}:
            raise ConnectionError(f"the worker does not answer: {error.code().name}") from None
        raise RuntimeError(f"the worker failed: {error.code().name}") from None


def _set_by_signals() -> Event:
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _claim(socket: Path, *, shared: bool) -> None:
    """Make ``socket`` a free path in a folder that only its owner can enter or, if ``shared``, change."""
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if shared else 0o700)
    if fault := _fault(socket, shared=shared):
        raise ConfigurationError([fault])
    socket.unlink(missing_ok=True)  # left behind by a worker that was killed


def _fault(socket: Path, *, shared: bool) -> Fault | None:
    if len(os.fsencode(socket)) > PATH_LIMIT:
        return Fault(
            "--socket", "", f"a path of {len(os.fsencode(socket))} bytes", f"at most {PATH_LIMIT}", "use a shorter folder"
        )
    folder = socket.parent
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & (0o022 if shared else 0o077):
        only, remedy = ("change", "go-w") if shared else ("enter", "700")
        return Fault(
            "--socket", "", f"folder {folder} of mode {mode:o}", f"one that only you can {only}", f"chmod {remedy} {folder}"
        )
    if not socket.exists():
        return None
    if not socket.is_socket():
        return Fault("--socket", "", f"{socket}, a file", "a free path, or a socket", "choose another path")
    if _answers(socket):
        return Fault("--socket", "", f"another worker that answers at {socket}", "a free path", "stop it, or choose another")
    return None


def _answers(socket: Path) -> bool:
    with sockets.socket(sockets.AF_UNIX) as probe:
        try:
            probe.connect(str(socket))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


if __name__ == "__main__":
    sys.exit(main())
