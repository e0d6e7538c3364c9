"""Certificates and enrolment: what is made, kept, renewed and refused. Chains are judged by OpenSSL, through ``ssl``."""

import json
import socket
import ssl
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client import enrolment
from client.enrolment import Home
from client.governance.identity import Identity, read_roster
from client.joining import add_authorities
from server import provisioning
from server.cli import app
from server.provisioning import Federation
from shared_model import certificates, flower_home
from shared_model.certificates import Validity
from shared_model.enrolment import read_kit, read_request
from shared_model.errors import ConfigurationError


@pytest.fixture(autouse=True)
def app_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_home, "app_sha256", lambda: "a" * 64)  # Flower's build takes seconds


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return provisioned(tmp_path / "fed")


def provisioned(folder: Path, *hosts: str) -> Federation:
    return provisioning.provision(folder, hosts=hosts or ("localhost", "127.0.0.1"), name=None, port=8443, bind="0.0.0.0")[0]


def enrolled(federation: Federation, home: Home, *, site: str = "birch", renew: bool = False) -> Path:
    enrolment.enrol(home, site=site, title="Birch Hospital", renew=renew)
    return provisioning.approve(federation, home.request)[1]


def handshake(federation: Federation, *, trust: Path, name: str) -> None:
    """A TLS connection to a server that has the federation's certificate, from a client that trusts ``trust``."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(federation.server_certificate, federation.server_key)
    client = ssl.create_default_context(cafile=str(trust))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with closing(client.wrap_socket(ours, server_hostname=name)):
            pass
    finally:
        ours.close()
        thread.join(10)


def test_the_server_certificate_holds_for_its_names_and_no_other(federation: Federation, tmp_path: Path) -> None:
    for name in ("localhost", "127.0.0.1"):
        handshake(federation, trust=federation.root_certificate, name=name)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(federation, trust=federation.root_certificate, name="example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed|signature"):
        handshake(federation, trust=provisioned(tmp_path / "other").root_certificate, name="localhost")


def test_secrets_are_for_their_owner_only(federation: Federation, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    enrolled(federation, home)
    for path in (federation.folder / "ca" / "root.key", federation.server_key, home.node_key, home.identity_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (federation.folder / "ca", federation.folder / "tls", home.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_authority_is_kept_over_rebuilds_and_follows_new_names(federation: Federation, tmp_path: Path) -> None:
    root, server = federation.root_certificate.read_bytes(), federation.server_certificate.read_bytes()
    again, done = provisioning.provision(
        federation.folder, hosts=("localhost", "127.0.0.1"), name=None, port=8443, bind="0.0.0.0"
    )
    assert [line.split(",")[0] for line in done] == ["kept the authority"]
    assert again.server_certificate.read_bytes() == server
    provisioned(federation.folder, "localhost", "fed.example.org")
    assert federation.root_certificate.read_bytes() == root
    handshake(federation, trust=federation.root_certificate, name="fed.example.org")
    provisioning.rotate(federation)
    handshake(federation, trust=federation.root_certificate, name="fed.example.org")


def test_a_lost_authority_is_not_replaced_silently(federation: Federation) -> None:
    (federation.folder / "ca" / "root.key").unlink()
    with pytest.raises(ConfigurationError, match=r"restore root\.key from your backup"):
        provisioned(federation.folder)


@pytest.mark.parametrize("host", ["https://fed.example.org", "fed.example.org:443", "with blank", "a,b"])
def test_a_host_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="without scheme or port"):
        provisioned(tmp_path / "fed", host)


def test_warnings_start_thirty_days_ahead(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert federation.warnings == []
    for days, expired in ((31, False), (29, False), (-1, True)):
        held = Validity("the server certificate", datetime.now(UTC) + timedelta(days=days, minutes=1))
        assert held.ending is (days < 30)
        assert held.expired is expired
    monkeypatch.setattr(provisioning, "SERVER_DAYS", 20)
    provisioning.rotate(federation)
    [warning] = federation.warnings
    assert "19 more days" in warning
    assert f"consilium-center rotate {federation.folder}" in warning


def test_a_kit_answers_a_request_and_holds_no_secret(federation: Federation, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    kit_file = enrolled(federation, home)
    assert "PRIVATE" not in kit_file.read_text() + home.request.read_text()
    kit, done = enrolment.accept_kit(home, kit_file)
    assert (kit.site, kit.address, kit.app_sha256) == ("birch", "localhost:8443", "a" * 64)
    digest = certificates.fingerprint(federation.authority)
    assert certificates.spoken(digest) in done[0]
    assert enrolment.accept_kit(home, kit_file, expect=certificates.spoken(digest))[1] == []
    assert provisioning.approve(federation, home.request)[1] == kit_file  # twice is as good as once
    assert len(federation.sites()["birch"].node_keys) == 1


@pytest.mark.parametrize(
    ("key", "value"), [("site", "alder"), ("node_key", None), ("title", "x"), ("identity_signature", "AAAA")]
)
def test_a_request_that_was_changed_is_refused(federation: Federation, tmp_path: Path, key: str, value: str | None) -> None:
    home, other = Home(tmp_path / "home"), Home(tmp_path / "other")
    enrolment.enrol(home, site="birch", title="")
    foreign = enrolment.enrol(other, site="birch", title="")
    document = json.loads(home.request.read_text())
    document[key] = value or foreign.node_key
    home.request.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match="ask the hospital for the file"):
        provisioning.approve(federation, home.request)
    assert federation.sites() == {}


@pytest.mark.parametrize(
    ("key", "value"), [("host", "evil.example.org"), ("port", 1), ("app_sha256", "b" * 64), ("site", "alder")]
)
def test_a_kit_that_was_changed_is_refused(federation: Federation, tmp_path: Path, key: str, value: object) -> None:
    home = Home(tmp_path / "home")
    kit_file = enrolled(federation, home)
    document = json.loads(kit_file.read_text())
    document[key] = value
    kit_file.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match="the file was changed after it was made"):
        enrolment.accept_kit(home, kit_file)


def test_a_kit_of_another_center_or_for_other_keys_is_refused(federation: Federation, tmp_path: Path) -> None:
    home, other = Home(tmp_path / "home"), Home(tmp_path / "other")
    kit_file, foreign = enrolled(federation, home), enrolled(federation, other, site="alder")
    with pytest.raises(ConfigurationError, match="a kit for other keys"):
        enrolment.accept_kit(home, foreign)
    with pytest.raises(ConfigurationError, match="no keys in"):
        enrolment.accept_kit(Home(tmp_path / "empty"), kit_file)
    with pytest.raises(ConfigurationError, match="do not join"):
        enrolment.accept_kit(home, kit_file, expect="0123 4567 89ab cdef")
    enrolment.accept_kit(home, kit_file)
    impostor = provisioned(tmp_path / "impostor")
    with pytest.raises(ConfigurationError, match="not of the one joined before"):
        enrolment.accept_kit(home, provisioning.approve(impostor, home.request)[1])


def test_a_site_renews_its_key_and_the_old_one_holds_until_the_new_one_is_used(federation: Federation, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first = enrolled(federation, home)
    enrolment.accept_kit(home, first)
    old = home.node_key.read_bytes()
    second = enrolled(federation, home, renew=True)
    assert [key.status for key in federation.sites()["birch"].node_keys] == ["retiring", "active"]
    assert home.node_key.read_bytes() == old
    assert "is in use from now on" in enrolment.accept_kit(home, second)[1][0]
    assert home.node_key.read_bytes() != old
    provisioning.retire_done(federation, "birch")
    assert [key.status for key in federation.sites()["birch"].node_keys] == ["revoked", "active"]


def test_a_revoked_key_stays_out_and_its_name_is_free_for_new_keys(federation: Federation, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    enrolled(federation, home)
    stranger = Home(tmp_path / "stranger")
    enrolment.enrol(stranger, site="birch", title="")
    with pytest.raises(ConfigurationError, match="other keys than those that birch is enrolled with"):
        provisioning.approve(federation, stranger.request)
    provisioning.revoke(federation, "birch")
    assert federation.sites()["birch"].revoked
    with pytest.raises(ConfigurationError, match="a key that was revoked"):
        provisioning.approve(federation, home.request)
    enrolled(federation, home, renew=True)
    assert not federation.sites()["birch"].revoked
    with pytest.raises(ConfigurationError, match='did you mean "birch"'):
        provisioning.revoke(federation, "brich")


def test_a_home_belongs_to_one_site(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first = enrolment.enrol(home, site="birch", title="")
    assert enrolment.enrol(home, site="birch", title="").node_key == first.node_key
    with pytest.raises(ConfigurationError, match="holds the keys of site birch"):
        enrolment.enrol(home, site="alder", title="")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"kind": "consilium-site-kit-1"}', "x" * 200_000])
def test_a_file_that_is_no_kit_or_request_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    for read in (read_kit, read_request):
        with pytest.raises(ConfigurationError, match=r"file\.json"):
            read(path)


def test_the_roster_is_what_hospitals_read_each_others_identities_from(federation: Federation, tmp_path: Path) -> None:
    homes = {name: Home(tmp_path / name) for name in ("birch", "alder")}
    for name, home in homes.items():
        enrolled(federation, home, site=name)
    told = CliRunner().invoke(app, ["sites", str(federation.folder), "--roster"])
    (tmp_path / "roster.toml").write_text(told.stdout)
    known = read_roster(tmp_path / "roster.toml")
    assert known == {name: Identity.at(home.identity_key).public for name, home in homes.items()}


def test_cron_learns_from_the_exit_code(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["certificates", str(federation.folder), "--json"]
    told = CliRunner().invoke(app, command)
    assert (told.exit_code, json.loads(told.stdout)["ok"]) == (0, True)
    monkeypatch.setattr(provisioning, "SERVER_DAYS", 20)
    provisioning.rotate(federation)
    told = CliRunner().invoke(app, command)
    assert (told.exit_code, json.loads(told.stdout)["ok"]) == (2, False)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"kind": "consilium-site-request-1"}', "a request"),
        ('{"kind": "else"}', "another file"),
        ("[1]", "another file"),
        ('{"kind": "consilium-site-kit-1", "fede', "no JSON, or a part of it"),
        ("[site]\nname = 1", "no JSON, or a part of it"),
    ],
)
def test_a_file_that_is_no_kit_is_one_fault_and_says_where_kits_come_from(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "kit.json").write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        read_kit(tmp_path / "kit.json")
    [fault] = caught.value.faults
    assert (fault.found, fault.expected) == (found, "a kit")
    assert "what the center sent back" in fault.remedy


def test_a_kit_is_no_request(federation: Federation, tmp_path: Path) -> None:
    kit_file = enrolled(federation, Home(tmp_path / "home"))
    with pytest.raises(ConfigurationError) as caught:
        provisioning.approve(federation, kit_file)
    [fault] = caught.value.faults
    assert (fault.found, fault.expected) == ("a kit", "a request")


def test_a_fingerprint_of_a_few_digits_proves_nothing(federation: Federation, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    kit_file = enrolled(federation, home)
    digits = certificates.spoken(certificates.fingerprint(federation.authority))
    with pytest.raises(ConfigurationError, match="4 hexadecimal digits"):
        enrolment.accept_kit(home, kit_file, expect=digits[:4])
    assert not (home.folder / "center.json").exists()


def test_authorities_of_a_bundle_are_kept_for_a_connection_that_is_at_work(federation: Federation, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    kit_file = enrolled(federation, home)
    kit, _ = enrolment.accept_kit(home, kit_file)
    own = home.root_certificate.read_bytes()
    bundle = provisioned(tmp_path / "proxy").root_certificate
    add_authorities(home, kit, bundle)
    enrolment.accept_kit(home, kit_file, keep_authorities=True)
    assert home.root_certificate.read_bytes() == own + bundle.read_bytes()
    enrolment.accept_kit(home, kit_file)
    assert home.root_certificate.read_bytes() == own


@pytest.mark.parametrize("content", [None, "[site]\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_bundle_without_certificates_is_refused(federation: Federation, tmp_path: Path, content: str | None) -> None:
    home = Home(tmp_path / "home")
    kit, _ = enrolment.accept_kit(home, enrolled(federation, home))
    if content is not None:
        (tmp_path / "bundle.pem").write_text(content)
    with pytest.raises(ConfigurationError, match="ask your IT office for the certificate of its proxy"):
        add_authorities(home, kit, tmp_path / "bundle.pem")
