"""A hospital whose only way out is a proxy, which asks for a password, and at some hospitals looks into TLS."""

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from server.authority import issue, new_authority
from tests.deployed import SITE as SITE_COMMAND
from tests.deployed import Deployed, deployed, wait_for, without_proxies
from tests.proxies import PASSWORD, Proxy, proxy
from tests.tables import write_sites, write_study

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(900)]

CENTER = "center.consilium.test"  # a name that the proxy knows, and nobody else
SITE = "east"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The center and the hospital's worker are up."""
    folder = tmp_path_factory.mktemp("federation")
    [site] = write_sites(folder / "tables", names=(SITE,))
    with deployed(folder, {SITE: site}, host=CENTER) as made:
        made.worker(SITE)
        made.approve(SITE, write_study(folder, rounds=1))
        made.up()
        wait_for(made.socket(SITE).is_socket, timeout_s=60.0)
        yield made


@contextmanager
def way_out(
    federation: Deployed, monkeypatch: pytest.MonkeyPatch, *, looking_in: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
) -> Iterator[Proxy]:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with proxy({f"{CENTER}:{federation.port}": ("127.0.0.1", federation.port)}, looking_in=looking_in) as made:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, made.url)
        yield made


def doctor(federation: Deployed, *options: object) -> dict[str, dict[str, str]]:
    result = federation.site("doctor", federation.kit(SITE), "--home", federation.home(SITE), "--json", *options)
    assert PASSWORD not in result.stdout + result.stderr
    return {check["id"]: check for check in json.loads(result.stdout)["checks"]}


def test_without_the_proxy_the_center_is_not_known(federation: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - without_proxies(os.environ).keys():
        monkeypatch.delenv(name)
    checks = doctor(federation)
    assert checks["name"]["status"] == "fail"
    assert "set HTTPS_PROXY" in json.dumps(checks["name"])


def test_a_study_goes_by_way_of_the_proxy_with_the_centers_own_authority(
    federation: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor, join and the whole study; the center itself runs with the proxy in its environment too, as on one network."""
    with way_out(federation, monkeypatch) as door:
        checks = doctor(federation, "--worker", federation.socket(SITE))
        assert {checks[id_]["status"] for id_ in ("proxy", "name", "port", "tls", "certificate", "clock", "auth")} == {"pass"}
        federation.join(SITE)
        federation.await_line(f"join-{SITE}", "connected to")
        result = federation.run(federation.folder / "study.toml", federation.folder / "run")
        assert result.returncode == 0, result.stdout + result.stderr + federation.log(f"join-{SITE}")
        assert federation.stop(f"join-{SITE}") == 0
    assert door.bytes_passed > 50_000
    assert set(door.seen) == {(f"CONNECT {CENTER}:{federation.port} HTTP/1.1", 200)}
    assert PASSWORD not in federation.log(f"join-{SITE}")


def test_a_proxy_that_looks_into_tls_is_named_and_then_trusted_by_its_authority(
    federation: Deployed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, key = new_authority("hospital")
    bundle = tmp_path / "hospital.pem"
    bundle.write_bytes(root.public_bytes(Encoding.PEM))
    with way_out(federation, monkeypatch, looking_in=both_sides(federation, root, key, tmp_path)) as door:
        checks = doctor(federation)
        assert checks["tls"]["status"] == "fail"
        assert "--ca-bundle" in json.dumps(checks["tls"])
        refused = federation.site(
            "join", federation.kit(SITE), "--home", federation.home(SITE), "--worker", federation.socket(SITE)
        )
        assert refused.returncode == 2
        assert "not the authority of the kit" in refused.stderr
        checks = doctor(federation, "--ca-bundle", bundle)
        assert {checks[id_]["status"] for id_ in ("tls", "auth")} == {"pass"}
        passed = door.bytes_passed
        options = ("--home", federation.home(SITE), "--worker", federation.socket(SITE), "--ca-bundle", bundle)
        federation.start(f"join-{SITE}", SITE_COMMAND, "join", federation.kit(SITE), *options)
        wait_for(
            lambda: federation.log(f"join-{SITE}").count("connected to") == 2,
            timeout_s=120.0,
            told=lambda: federation.log(f"join-{SITE}"),
        )
        assert federation.stop(f"join-{SITE}") == 0
        assert door.bytes_passed > passed


def both_sides(federation: Deployed, root: x509.Certificate, key: bytes, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The proxy's contexts: it shows a certificate of its own for the center, and trusts the center's authority."""
    authority = load_pem_private_key(key, password=None)
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    certificate, certificate_key = issue([CENTER], authority, root, days=2)
    (folder / "shown.pem").write_bytes(certificate + certificate_key)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(folder / "shown.pem")
    return ours, ssl.create_default_context(cafile=str(federation.federation / "ca" / "root.crt"))
