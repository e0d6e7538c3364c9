import os
import signal
import socket as sockets
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from client import serving
from shared_model.errors import ConfigurationError, MessageError
from shared_model.messages import HEADER_LIMIT, PAYLOAD_LIMIT, Envelope

SIZES, HANDLE = struct.Struct(">QQ"), "/consilium.Worker/Handle"  # as they are on the wire
ROOT = Path(__file__).parents[2]
SLOW_WORKER = """
import sys, time
from pathlib import Path
from client import serving
class Slow:
    name = "slow"
    def handle(self, envelope):
        Path(sys.argv[2]).touch()
        time.sleep(60)
serving.serve(Slow(), Path(sys.argv[1]))
"""


class Echo:
    name = "north"

    def __init__(self, pause_s=0.0):
        self.pause_s = pause_s
        self.requests = []
        self.active = self.most_active = 0

    def handle(self, envelope):
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        self.requests.append(envelope.header)
        time.sleep(self.pause_s)
        self.active -= 1
        return Envelope(b"re: " + envelope.header, envelope.payload)


class Raising:
    name = "north"

    def handle(self, envelope):
        raise ValueError("patient 12345 has no label")


@pytest.fixture
def socket(tmp_path):
    return tmp_path / "private" / "worker"


@contextmanager
def serving_at(socket, worker):
    stop = threading.Event()
    thread = threading.Thread(target=serving.serve, args=(worker, socket), kwargs={"stop": stop})
    thread.start()
    try:
        wait_for(socket.is_socket)
        yield worker
    finally:
        stop.set()
        thread.join(10.0)
        assert not thread.is_alive()


@contextmanager
def process_serving_at(socket, marker):
    command = [sys.executable, "-c", SLOW_WORKER, str(socket), str(marker)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_for(socket.is_socket)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.01)


@pytest.mark.parametrize("payload", [b"", b"\0", os.urandom(serving.CHUNK), os.urandom(5_000_001)], ids=len)
def test_an_envelope_makes_the_round_trip_unchanged(socket, payload):
    with serving_at(socket, Echo()):
        assert serving.call(socket, Envelope(b"hello", payload), timeout_s=20.0) == Envelope(b"re: hello", payload)


def test_a_large_header_makes_the_round_trip(socket):
    header = os.urandom(3 * 2**20)
    with serving_at(socket, Echo()):
        assert serving.call(socket, Envelope(header), timeout_s=20.0).header == b"re: " + header


def test_only_the_owner_can_connect(socket):
    with serving_at(socket, Echo()):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not socket.exists()


def test_the_name_is_told_while_the_worker_is_busy(socket):
    with serving_at(socket, Echo(pause_s=0.5)) as worker, ThreadPoolExecutor() as pool:
        reply = pool.submit(serving.call, socket, Envelope(b"work"), timeout_s=20.0)
        wait_for(lambda: worker.active)
        assert serving.RemoteWorker(socket, timeout_s=20.0).name == "north"
        assert worker.active
        assert reply.result().header == b"re: work"


def test_requests_are_answered_one_at_a_time(socket):
    with serving_at(socket, Echo(pause_s=0.05)) as worker, ThreadPoolExecutor() as pool:
        headers = [str(number).encode() for number in range(4)]
        replies = pool.map(lambda header: serving.call(socket, Envelope(header), timeout_s=20.0).header, headers)
        assert list(replies) == [b"re: " + header for header in headers]
        assert worker.most_active == 1


def test_a_request_whose_sender_gave_up_while_it_waited_is_not_worked_on(socket):
    with serving_at(socket, Echo(pause_s=0.5)) as worker, ThreadPoolExecutor() as pool:
        first = pool.submit(serving.call, socket, Envelope(b"first"), timeout_s=20.0)
        wait_for(lambda: worker.active)
        with pytest.raises(ConnectionError):
            serving.call(socket, Envelope(b"second"), timeout_s=0.1)
        first.result()
        assert serving.call(socket, Envelope(b"third"), timeout_s=20.0).header == b"re: third"
        assert worker.requests == [b"first", b"third"]


def test_nobody_there_is_a_connection_error(socket):
    started = time.monotonic()
    with pytest.raises(ConnectionError):
        serving.call(socket, Envelope(b"hello"), timeout_s=20.0)
    with pytest.raises(ConnectionError):
        _ = serving.RemoteWorker(socket, timeout_s=20.0).name
    assert time.monotonic() - started < 5.0


def test_a_worker_that_raises_keeps_its_words_to_itself(socket):
    with serving_at(socket, Raising()), pytest.raises(RuntimeError) as caught:
        serving.call(socket, Envelope(b"hello"), timeout_s=20.0)
    assert "12345" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_worker_killed_at_work_is_a_connection_error_and_its_socket_is_reused(socket, tmp_path):
    with process_serving_at(socket, tmp_path / "busy") as process, ThreadPoolExecutor() as pool:
        reply = pool.submit(serving.call, socket, Envelope(b"hello"), timeout_s=60.0)
        wait_for((tmp_path / "busy").exists)
        process.kill()
        with pytest.raises(ConnectionError):
            reply.result(timeout=10.0)
    assert socket.is_socket()
    with serving_at(socket, Echo()):
        wait_for(lambda: is_answering(socket))


def is_answering(socket):
    try:
        return serving.RemoteWorker(socket, timeout_s=5.0).name == "north"
    except ConnectionError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_even_at_work(socket, tmp_path, number):
    with process_serving_at(socket, tmp_path / "busy") as process, ThreadPoolExecutor() as pool:
        reply = pool.submit(serving.call, socket, Envelope(b"hello"), timeout_s=60.0)
        wait_for((tmp_path / "busy").exists)
        process.send_signal(number)
        assert process.wait(timeout=10.0) == 0
        with pytest.raises(ConnectionError):
            reply.result(timeout=10.0)
        assert not socket.exists()


HOSTILE = {
    "nothing": [],
    "no sizes": [b"short"],
    "header over the limit": [SIZES.pack(HEADER_LIMIT + 1, 0)],
    "payload over the limit": [SIZES.pack(0, PAYLOAD_LIMIT + 1), b"x"],
    "absurd": [SIZES.pack(2**64 - 1, 2**64 - 1)],
    "too much": [SIZES.pack(4, 0), b"too much"],
    "too little": [SIZES.pack(4, 0), b"few"],
    "empty chunk": [SIZES.pack(4, 0), b"", b"four"],
    "no end": [SIZES.pack(4, 0), b"four", b"more"],
}


@pytest.mark.parametrize("frames", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_relay_is_refused(socket, frames):
    with serving_at(socket, Echo()) as worker:
        with grpc.insecure_channel(f"unix:{socket}") as channel, pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(HANDLE)(iter(frames), timeout=20.0))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert worker.requests == []


@pytest.mark.parametrize("frames", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_worker_is_refused(tmp_path, frames):
    handler = grpc.stream_stream_rpc_method_handler(lambda request, context: iter(frames))
    server = grpc.server(ThreadPoolExecutor())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("consilium.Worker", {"Handle": handler}),))
    server.add_insecure_port(f"unix:{tmp_path / 'worker'}")
    server.start()
    try:
        with pytest.raises(MessageError):
            serving.call(tmp_path / "worker", Envelope(b"hello"), timeout_s=20.0)
    finally:
        server.stop(0).wait()


def test_a_sender_cannot_have_memory_set_aside_by_announcing_much(socket):
    announced = SIZES.pack(0, PAYLOAD_LIMIT)
    with serving_at(socket, Echo()), grpc.insecure_channel(f"unix:{socket}") as channel:
        before = resident_bytes()
        with pytest.raises(grpc.RpcError):
            list(channel.stream_stream(HANDLE)(iter([announced, b"x"]), timeout=20.0))
        assert resident_bytes() - before < 100 * 2**20


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_second_worker_at_the_same_socket_is_refused(socket):
    with serving_at(socket, Echo()):
        wait_for(lambda: is_answering(socket))
        with pytest.raises(ConfigurationError, match="another worker"):
            serving.serve(Echo(), socket, stop=threading.Event())
        assert serving.call(socket, Envelope(b"still there"), timeout_s=20.0).header == b"re: still there"


def test_a_folder_that_others_can_enter_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        serving.serve(Echo(), tmp_path / "open" / "worker", stop=threading.Event())


def test_a_file_in_the_way_is_not_removed(tmp_path):
    (tmp_path / "worker").write_text("precious")
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigurationError, match="a file"):
        serving.serve(Echo(), tmp_path / "worker", stop=threading.Event())
    assert (tmp_path / "worker").read_text() == "precious"


def test_a_path_longer_than_the_kernel_allows_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="at most 100"):
        serving.serve(Echo(), tmp_path / ("x" * 100) / "worker", stop=threading.Event())


def test_a_stale_socket_is_replaced(socket):
    socket.parent.mkdir(mode=0o700)
    with sockets.socket(sockets.AF_UNIX) as left_behind:
        left_behind.bind(str(socket))
    with serving_at(socket, Echo()):
        wait_for(lambda: is_answering(socket))


CLIENT = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from client import serving
os.setuid(int(sys.argv[2]))
try:
    print(serving.RemoteWorker(Path(sys.argv[1]), timeout_s=10.0).name)
except ConnectionError:
    print("refused")
"""
NOBODY = 65534


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("allowed", "told"), [((), "refused"), ((1234,), "refused"), ((NOBODY,), "north")])
def test_the_kernel_tells_which_user_asks(allowed, told):
    with tempfile.TemporaryDirectory(prefix="c-") as place:
        folder = Path(place) / "run"
        folder.mkdir(mode=0o755 if allowed else 0o700)
        folder.parent.chmod(0o755)
        stop, socket = threading.Event(), folder / "w.sock"
        thread = threading.Thread(target=serving.serve, args=(Echo(), socket), kwargs={"stop": stop, "allowed": allowed})
        thread.start()
        wait_for(socket.is_socket)
        folder.chmod(0o755)
        if not allowed:
            socket.chmod(0o666)  # even so: the door does not rely on permissions
        asked = subprocess.run(
            [sys.executable, "-c", CLIENT, str(socket), str(NOBODY), str(ROOT)], capture_output=True, text=True, check=True
        )
        stop.set()
        thread.join(20)
        assert asked.stdout.strip() == told, asked.stderr
        assert not socket.exists()


def test_a_shared_folder_must_not_be_open_to_changes_by_others(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="one that only you can change"):
        serving.serve(Echo(), folder / "w.sock", allowed=(NOBODY,))


def test_the_relay_needs_neither_torch_nor_pandas_nor_the_cohort():
    code = """
import sys
import client.app
heavy = {"torch", "pandas", "sklearn", "scipy", "pydicom", "PIL", "client.cohort", "client.worker", "client.training"}
print(sorted(heavy & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
