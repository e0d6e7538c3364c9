"""The way from a hospital to its center, step by step: proxy, name, port, TLS, certificate, clock. The first step that fails
is told with what to do about it; what Flower itself would say is at best "connection error".
"""

import base64
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from cryptography import x509
from cryptography.x509.oid import NameOID

from client.checks import Check, Problem, check_of, skipped
from shared_model.certificates import WARN_DAYS, Validity, validity

TIMEOUT_S = 10.0
AHEAD_LIMIT_S, BEHIND_LIMIT_S = 5.0, 305.0  # of Flower's node authentication
_AHEAD_WARN_S, _BEHIND_WARN_S = 2.0, 60.0
_STEPS = {
    "proxy": "Proxy",
    "name": "Name of the center",
    "port": "Port of the center",
    "tls": "TLS",
    "certificate": "Certificate of the center",
    "clock": "Clock",
}
PERMANENT = frozenset({"tls", "certificate"})  # steps whose failure does not pass by itself
_NTP = "set this machine's clock by NTP, e.g. timedatectl set-ntp true; in a container, on its host"


@dataclass(frozen=True)
class Center:
    """Where the center is, and the file with the authorities that its certificate may be signed by."""

    host: str
    port: int
    authorities: Path

    @property
    def proxy(self) -> SplitResult | None:
        """The proxy that HTTPS_PROXY names for this host, unless NO_PROXY excludes it."""
        proxies = getproxies()
        url = proxies.get("https") or proxies.get("all")
        if not url or proxy_bypass(self.host):
            return None
        return urlsplit(url if "//" in url else f"http://{url}")


class _StopError(Exception):
    """A step failed; those after it cannot be made."""

    def __init__(self, step: str, found: str, what: str, remedy: str) -> None:
        self.check = check_of(step, _STEPS[step], found, failures=[Problem(what, remedy)])
        super().__init__(what)


def connection_checks(center: Center) -> Iterator[Check]:
    """Every step in order; after a failure the rest is skipped."""
    made: set[str] = set()
    try:
        for check in _steps(center):
            made.add(check.id)
            yield check
    except _StopError as stopped:
        made.add(stopped.check.id)
        yield stopped.check
    yield from (skipped(step, title, "an earlier step failed") for step, title in _STEPS.items() if step not in made)


def _steps(center: Center) -> Iterator[Check]:
    proxy = center.proxy
    yield check_of(
        "proxy", _STEPS["proxy"], f"{proxy.hostname}:{proxy.port or 80}" if proxy else "none (HTTPS_PROXY is not set)"
    )
    yield _resolve(center, proxy)
    with closing(_connect(center, proxy)) as plain:
        yield check_of(
            "port", _STEPS["port"], f"{center.host}:{center.port} answers" + (" by way of the proxy" if proxy else "")
        )
        with closing(_secure(center, plain)) as stream:
            version, cipher = stream.version(), stream.cipher()
            yield check_of("tls", _STEPS["tls"], f"{version}, {cipher[0] if cipher else ''}; the center's authority has signed")
            certificate = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"")
            yield _expiry(validity("the server certificate", certificate))
            yield _clock(center, stream)


def _resolve(center: Center, proxy: SplitResult | None) -> Check:
    host, port = (proxy.hostname or "", proxy.port or 80) if proxy else (center.host, center.port)
    try:
        found = {str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        what = f"the name {host} of the {'proxy' if proxy else 'center'} is not known here"
        remedy = "check DNS of this machine, or ask the center for an address"
        if not proxy:
            remedy += "; where only a proxy reaches the internet, set HTTPS_PROXY"
        raise _StopError("name", str(error), what, remedy) from None
    return check_of("name", _STEPS["name"], f"{host} is {', '.join(sorted(found))}")


def _connect(center: Center, proxy: SplitResult | None) -> socket.socket:
    host, port = (proxy.hostname or "", proxy.port or 80) if proxy else (center.host, center.port)
    try:
        stream = socket.create_connection((host, port), timeout=TIMEOUT_S)
    except OSError as error:
        remedy = f"ask your IT office to allow outbound TCP from this machine to {host}, port {port}"
        remedy += "" if proxy else "; or, if a proxy is used here, set HTTPS_PROXY; or the center is down: ask there"
        raise _StopError("port", f"{host}:{port}: {error}", "no connection", remedy) from None
    if proxy:
        try:
            _tunnel(center, proxy, stream)
        except _StopError:
            stream.close()
            raise
    return stream


def _tunnel(center: Center, proxy: SplitResult, stream: socket.socket) -> None:
    target = f"[{center.host}]:{center.port}" if ":" in center.host else f"{center.host}:{center.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username:
        credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}")
    remedy = f"ask your IT office to let this machine through {proxy.hostname} to {target}"
    try:
        stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = _head(stream)
        status = int(answer.split(b" ", 2)[1])
    except (OSError, ValueError, IndexError) as error:
        raise _StopError("port", str(error), "the proxy does not answer as one", "check HTTPS_PROXY") from None
    if status == 407:
        what, hint = "the proxy asks for a user and a password", "set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
        raise _StopError("port", "407", what, hint)
    if status != 200:
        raise _StopError("port", f"HTTP {status} from the proxy", f"the proxy does not let through to {target}", remedy)


def _head(stream: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65_536 and (part := stream.recv(1)):
        head += part
    return head


def _secure(center: Center, plain: socket.socket) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(center.authorities))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        return context.wrap_socket(plain, server_hostname=center.host)
    except ssl.SSLCertVerificationError as error:
        raise _untrusted(center, error) from None
    except OSError as error:
        what = f"{center.host}:{center.port} does not speak TLS as the center does"
        remedy = "check host and port with the center; a firewall that inspects TLS must let this address through untouched"
        raise _StopError("tls", str(error), what, remedy) from None


def _untrusted(center: Center, error: ssl.SSLCertVerificationError) -> _StopError:
    presented = _presented(center)
    issuer = presented.issuer.get_attributes_for_oid(NameOID.COMMON_NAME) if presented else []
    by = f'a certificate signed by "{issuer[0].value!s}"' if issuer else "a certificate"
    if error.verify_code == 10:  # X509_V_ERR_CERT_HAS_EXPIRED
        return _expired(presented)
    if error.verify_code == 9:  # X509_V_ERR_CERT_NOT_YET_VALID
        return _StopError(
            "certificate", by, "the certificate of the center is not valid yet: this machine's clock is behind", _NTP
        )
    if error.verify_code in {62, 64}:  # host name, IP address
        names = _names(presented)
        remedy = f"ask the center for a kit with one of these names, or to provision --host {center.host} besides"
        return _StopError(
            "tls", f"a certificate for {names}", f"the certificate of the center is not for {center.host}", remedy
        )
    remedy = "if your network inspects TLS, let this address through untouched, or give its authority with --ca-bundle; "
    remedy += "if the center has a new authority, ask it for a new kit, and compare the fingerprint by telephone"
    return _StopError("tls", by, "not the authority of the kit: this is another server, or something in between", remedy)


def _expired(presented: x509.Certificate | None) -> _StopError:
    found = str(validity("the server certificate", presented)) if presented else "an expired certificate"
    what = "the certificate of the center has expired, or this machine's clock is wrong"
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    remedy = f"if it is {today}, tell the center: consilium-center rotate FEDERATION, and nothing changes here; if not, {_NTP}"
    return _StopError("certificate", found, what, remedy)


def _presented(center: Center) -> x509.Certificate | None:
    """What certificate is shown there, trusted or not: to be told, never to be believed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with closing(_connect(center, center.proxy)) as plain, closing(context.wrap_socket(plain)) as stream:
            return x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError, _StopError):
        return None


def _names(certificate: x509.Certificate | None) -> str:
    if certificate is None:
        return "another name"
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no name"
    return ", ".join(str(name.value) for name in names)


def _expiry(held: Validity) -> Check:
    problem = Problem(f"it ends within {WARN_DAYS} days", "tell the center: consilium-center rotate FEDERATION")
    return check_of("certificate", _STEPS["certificate"], str(held), warnings=[problem] if held.ending else [])


def _clock(center: Center, stream: ssl.SSLSocket) -> Check:
    """Node authentication signs the time, and takes a clock that is up to 5 s ahead or 305 s behind the center's."""
    request = f"GET /v1/fleet/ HTTP/1.1\r\nHost: {center.host}\r\nConnection: close\r\n\r\n"
    before = time.time()
    try:
        stream.sendall(request.encode())
        response = HTTPResponse(stream)
        response.begin()
        date = response.getheader("Date")
    except (OSError, HTTPException) as error:
        raise _StopError("clock", str(error), "the center does not answer", "the center may be restarting: try again") from None
    if date is None:
        return skipped("clock", _STEPS["clock"], "the center does not tell its time")
    ours = (before + time.time()) / 2
    theirs = parsedate_to_datetime(date).timestamp() + 0.5  # it is told in whole seconds
    return clock_check(ours - theirs)


def clock_check(ahead_s: float) -> Check:
    """What a clock means that is ``ahead_s`` seconds ahead of the center's (negative: behind)."""
    found = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    apart = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the center's clock"
    found += f", {apart}" if abs(ahead_s) >= 1.0 else ", as the center's"
    limits = f"at most {AHEAD_LIMIT_S:.0f} s ahead or {BEHIND_LIMIT_S:.0f} s behind is accepted"
    problem = Problem(f"this machine's clock is {apart}; {limits}", _NTP)
    if ahead_s >= AHEAD_LIMIT_S or ahead_s <= -BEHIND_LIMIT_S:
        return check_of("clock", _STEPS["clock"], found, failures=[problem])
    close = ahead_s >= _AHEAD_WARN_S or ahead_s <= -_BEHIND_WARN_S
    return check_of("clock", _STEPS["clock"], found, warnings=[problem] if close else [])
