"""The way to the center, against servers that are each wrong in one way: what is told, and what to do about it."""

import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from client.checks import Check
from client.connection import Center, clock_check, connection_checks
from client.enrolment import Home, enrol
from client.fleet import ask_standing
from server import authority, provisioning
from server.provisioning import Federation


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    folder = tmp_path_factory.mktemp("center") / "fed"
    return provisioning.provision(folder, hosts=("127.0.0.1",), name=None, port=8443, bind="127.0.0.1")[0]


@contextmanager
def listening(serve: object) -> Iterator[int]:
    """Call ``serve`` with each connection, in a thread; yields the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def run() -> None:
            while True:
                try:
                    stream, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(stream,), daemon=True).start()  # type: ignore[arg-type]

        threading.Thread(target=run, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def center(certificate: Path, key: Path, *, ahead_s: float = 0.0, status: str = "403 Forbidden") -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(stream: socket.socket) -> None:
        try:
            with stream, context.wrap_socket(stream, server_side=True) as secure:
                head, _, body = secure.recv(4096).partition(b"\r\n\r\n")
                while len(body) < length_of_body(head):
                    body += secure.recv(4096)
                date = formatdate(time.time() - ahead_s, usegmt=True)
                secure.sendall(f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
        except OSError:
            return

    with listening(serve) as port:
        yield port


def length_of_body(head: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", head.lower())
    return int(found[1]) if found else 0


def checks(host: str, port: int, federation: Federation) -> dict[str, Check]:
    return {check.id: check for check in connection_checks(Center(host, port, federation.root_certificate))}


def failed(made: dict[str, Check]) -> Check:
    [check] = [check for check in made.values() if check.status == "fail"]
    later = list(made)[list(made).index(check.id) + 1 :]
    assert all(made[name].status == "skip" for name in later)
    return check


def pair(federation: Federation, folder: Path, *hosts: str, days: int) -> tuple[Path, Path]:
    """Certificate and key of the federation's authority, for other names or another time."""
    certificate, key = authority.issue(hosts, provisioning.authority_key(federation), federation.authority, days=days)
    files = folder / "server.crt", folder / "server.key"
    for file, content in zip(files, (certificate, key), strict=True):
        file.write_bytes(content)
    return files


def test_the_right_center_passes_every_step(federation: Federation) -> None:
    with center(federation.server_certificate, federation.server_key) as port:
        made = checks("127.0.0.1", port, federation)
    assert [check.status for check in made.values()] == ["pass"] * 6
    assert "396 more days" in made["certificate"].found


def test_another_authority_is_told_by_name(federation: Federation, tmp_path: Path) -> None:
    other = provisioning.provision(tmp_path / "mallory", hosts=("127.0.0.1",), name="mallory", port=1, bind="127.0.0.1")[0]
    with center(other.server_certificate, other.server_key) as port:
        check = failed(checks("127.0.0.1", port, federation))
    assert check.id == "tls"
    assert 'signed by "Consilium mallory"' in check.found
    assert "--ca-bundle" in check.problems[0].remedy


@pytest.mark.parametrize("name", ["fed.example.org", "127.0.0.2"])
def test_another_name_is_told_with_those_of_the_certificate(federation: Federation, tmp_path: Path, name: str) -> None:
    with center(*pair(federation, tmp_path, name, days=10)) as port:
        check = failed(checks("127.0.0.1", port, federation))
    assert check.found == f"a certificate for {name}"
    assert "is not for 127.0.0.1" in check.problems[0].what


def test_an_expired_certificate_is_told_with_its_day_and_who_mends_it(federation: Federation, tmp_path: Path) -> None:
    # Certificates are dated back by ten minutes: one of no days ended then.
    with center(*pair(federation, tmp_path, "127.0.0.1", days=0)) as port:
        check = failed(checks("127.0.0.1", port, federation))
    assert check.id == "certificate"
    assert "expired on" in check.found
    assert "consilium-center rotate" in check.problems[0].remedy
    assert "timedatectl" in check.problems[0].remedy, "or it is the clock"


def test_a_certificate_that_ends_soon_is_a_warning(federation: Federation, tmp_path: Path) -> None:
    with center(*pair(federation, tmp_path, "127.0.0.1", days=20)) as port:
        made = checks("127.0.0.1", port, federation)
    assert made["certificate"].status == "warn"
    assert made["clock"].status == "pass"


@pytest.mark.parametrize(("ahead_s", "status"), [(12.0, "fail"), (3.2, "warn"), (-200.0, "warn"), (-330.0, "fail")])
def test_a_clock_that_is_off_is_told_before_flower_refuses_it(federation: Federation, ahead_s: float, status: str) -> None:
    with center(federation.server_certificate, federation.server_key, ahead_s=ahead_s) as port:
        check = checks("127.0.0.1", port, federation)["clock"]
    assert check.status == status
    assert f"s {'ahead of' if ahead_s > 0 else 'behind'} the center's clock" in check.problems[0].what
    assert "at most 5 s ahead or 305 s behind" in check.problems[0].what
    assert "NTP" in check.problems[0].remedy


@pytest.mark.parametrize(
    ("ahead_s", "status"), [(4.9, "warn"), (5.0, "fail"), (-304.9, "warn"), (-305.0, "fail"), (0.4, "pass")]
)
def test_the_window_is_that_of_node_authentication(ahead_s: float, status: str) -> None:
    assert clock_check(ahead_s).status == status


def test_nobody_at_the_port_asks_for_the_firewall(federation: Federation) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        check = failed(checks("127.0.0.1", unused.getsockname()[1], federation))
    assert check.id == "port"
    assert "allow outbound TCP" in check.problems[0].remedy


def test_an_unknown_name_asks_for_dns_or_a_proxy(federation: Federation) -> None:
    check = failed(checks("center.invalid", 443, federation))
    assert check.id == "name"
    assert "set HTTPS_PROXY" in check.problems[0].remedy


def test_a_server_without_tls_is_told(federation: Federation) -> None:
    def serve(stream: socket.socket) -> None:
        with stream:
            stream.recv(4096)
            stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with listening(serve) as port:
        check = failed(checks("127.0.0.1", port, federation))
    assert check.id == "tls"
    assert "does not speak TLS" in check.problems[0].what


@contextmanager
def proxy(answer: str | None, seen: list[str]) -> Iterator[int]:
    """A proxy that lets through, or answers with a status line."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while part := source.recv(65536):
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def serve(stream: socket.socket) -> None:
        with stream:
            head = stream.recv(4096).decode()
            seen.append(head)
            if answer is not None:
                stream.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode())
                return
            host, port = head.split()[1].rsplit(":", 1)
            with closing(socket.create_connection((host, int(port)))) as target:
                stream.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=copy, args=(target, stream), daemon=True)
                back.start()
                copy(stream, target)
                back.join(10.0)

    with listening(serve) as port:
        yield port


def test_the_proxy_of_the_environment_is_used(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    with center(federation.server_certificate, federation.server_key) as port, proxy(None, seen) as door:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{door}")
        made = checks("127.0.0.1", port, federation)
    assert [check.status for check in made.values()] == ["pass"] * 6
    assert f"CONNECT 127.0.0.1:{port}" in seen[0]
    assert "Proxy-Authorization: Basic dXNlcjpwQHNz" in seen[0]
    assert "p@ss" not in str(made)


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [("407 Proxy Authentication Required", "USER:PASSWORD"), ("403 Forbidden", "let this machine through")],
)
def test_a_proxy_that_refuses_is_told(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, answer: str, remedy: str
) -> None:
    with proxy(answer, []) as door:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{door}")
        check = failed(checks("127.0.0.1", 443, federation))
    assert check.id == "port"
    assert remedy in check.problems[0].remedy


def test_a_host_that_no_proxy_excludes_is_reached_directly(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with center(federation.server_certificate, federation.server_key) as port:
        assert checks("127.0.0.1", port, federation)["clock"].status == "pass"


@pytest.mark.filterwarnings("ignore:.verify=<str>. is deprecated:DeprecationWarning")  # Flower's way to name the authorities
@pytest.mark.parametrize(
    ("status", "standing"),
    [("401 Unauthorized", "unknown"), ("403 Forbidden", "enrolled"), ("503 Service Unavailable", "unavailable")],
)
def test_whether_a_key_is_still_enrolled_is_asked_by_its_node(
    federation: Federation, tmp_path: Path, status: str, standing: str
) -> None:
    enrol(Home(tmp_path), site="birch", title="")
    asked = {"authorities": federation.root_certificate, "key_file": Home(tmp_path).node_key, "node": 7}
    with center(federation.server_certificate, federation.server_key, status=status) as port:
        assert ask_standing(f"127.0.0.1:{port}", **asked) == standing  # type: ignore[arg-type]
    assert ask_standing(f"127.0.0.1:{port}", **asked) == "unavailable"  # type: ignore[arg-type]
