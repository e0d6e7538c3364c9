"""Certificates that expire or are another's, keys that are revoked, and clocks that are off: all in the middle of a run."""

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from server.authority import general_names, new_authority
from server.provisioning import Federation, authority_key
from shared_model.durable import write_durably
from tests.deployed import ROOT, wait_for
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import HOST, OTHERS, SITES, WEST, Between, Stage, start_join

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

MENDED = "hospitals say what is wrong and whom to tell; after consilium-center rotate they are back by themselves"
CERTIFICATES = {
    "expired": (
        Fault("trust", "certificate expired", "the center's certificate expires between two rounds", MENDED),
        "the certificate of the center has expired",
    ),
    "name": (
        Fault("trust", "certificate for another name", "the center's certificate is replaced by one for another name", MENDED),
        f"is not for {HOST}",
    ),
    "authority": (
        Fault("trust", "certificate of another authority", "the center's certificate is replaced by a stranger's", MENDED),
        "not the authority of the kit",
    ),
}


@parametrized([row for row, _ in CERTIFICATES.values()], name="certificates")
def test_a_bad_certificate_is_told_at_the_hospitals_and_mended_at_the_center(
    stage: Stage, rows: list[Fault], told: Told, tmp_path: Path
) -> None:
    federation = Federation(stage.federation.federation)
    run = stage.begin(tmp_path, rounds=1 + len(rows))
    for kind, (fault, says) in CERTIFICATES.items():
        with Between(run):
            before = {site: len(stage.log(f"join-{site}")) for site in SITES}
            install(federation, *bad_certificate(federation, kind), port=stage.federation.port)
            try:
                for site in SITES:
                    stage.await_log(f"join-{site}", says, after=before[site], timeout_s=200.0)
            finally:
                assert stage.federation.center("rotate", federation.folder).returncode == 0
            for site in SITES:
                stage.await_log(f"join-{site}", "connected", after=before[site], timeout_s=300.0)
            told("each hospital named the cause; all counted in the next round", fault)
    run.finish()
    run.check(told, [SITES] * (1 + len(rows)))


def bad_certificate(federation: Federation, kind: str) -> tuple[bytes, bytes]:
    if kind == "expired":
        return signed(federation.authority, authority_key(federation), hosts=[HOST], days=-1)
    if kind == "name":
        return signed(federation.authority, authority_key(federation), hosts=["fed.example.org"], days=30)
    root, _ = new_authority("a stranger")
    return signed(root, ec.generate_private_key(ec.SECP384R1()), hosts=[HOST], days=30)


def signed(root: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, hosts: Sequence[str], days: int) -> tuple[bytes, bytes]:
    """Certificate, valid from 30 days ago until ``days`` from now, and key; in PEM."""
    own, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]))
        .issuer_name(root.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(list(general_names(hosts))), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), secret


def install(federation: Federation, certificate: bytes, key: bytes, *, port: int) -> None:
    """Put a certificate into the center's place, and wait until the center shows it."""
    write_durably(federation.server_key, key, mode=0o600)
    write_durably(federation.server_certificate, certificate)
    wanted = x509.load_pem_x509_certificate(certificate).serial_number

    def shown() -> bool:
        pem = ssl.get_server_certificate((HOST, port))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number == wanted

    wait_for(shown, timeout_s=30.0)


def enrol_anew(stage: Stage, folder: Path) -> None:
    federation, request = stage.federation, folder / "request.json"
    before = len(stage.log(f"join-{WEST}"))
    made = federation.site("enrol", federation.sites[WEST], "--home", federation.home(WEST), "--out", request, "--renew")
    assert made.returncode == 0, made.stderr
    assert federation.center("approve-site", federation.federation, request).returncode == 0
    stage.await_log(f"join-{WEST}", "connected to", after=before, timeout_s=200.0)


CLOCKS = {
    "+10": Fault("trust", "clock +10 s", "a hospital's clock jumps ahead between two rounds, and back before the third",
                 "named at the center; at the hospital told what is wrong and how to mend it; counts again"),
    "-600": Fault("trust", "clock -10 min", "a hospital's clock jumps back between two rounds, and is right before the third",
                  "named at the center; at the hospital told what is wrong and how to mend it; counts again"),
}  # fmt: skip
REVOKED = Fault("trust", "site revoked", "a hospital is revoked between two rounds",
                "out within seconds, and told so; the run goes on without it")  # fmt: skip


@parametrized([*CLOCKS.values(), REVOKED], name="clocks, and a site revoked")
def test_a_clock_that_jumps_and_a_site_that_is_revoked(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    name, federation = f"join-{WEST}", stage.federation
    with another_clock(stage, tmp_path / "clock") as clock:
        run = stage.begin(tmp_path, rounds=3 + 2 * len(CLOCKS))
        for number, (offset, fault) in enumerate(CLOCKS.items()):
            with Between(run):
                before = len(stage.log(name))
                clock.write_text(offset)
                stage.await_log(name, "NTP", after=before, timeout_s=200.0)
            stage.await_reached("center", "journal.committed")
            before = len(stage.log(name))
            clock.write_text("+0")
            with Between(run):
                stage.await_log(name, "connected", after=before, timeout_s=300.0)
                wait_for(lambda: WEST in stage.online(), timeout_s=60.0)
                told(
                    f"{WEST} told to mend its clock; named: {run.codes(WEST, 2 + 2 * number)}; counted in the next round", fault
                )
        with Between(run):
            before = len(stage.log(name))
            result = federation.center("revoke-site", federation.federation, WEST)
            assert "the running center has taken it over" in result.stdout, result.stderr
            stage.await_log(name, "it was revoked, or not approved yet", after=before, timeout_s=200.0)
        with Between(run):
            told(f"{WEST} named: {run.codes(WEST, 6)}; out of the rest of the run", REVOKED)
        run.finish()
        run.check(told, [SITES, *([OTHERS, SITES] * len(CLOCKS)), OTHERS, OTHERS])
        enrol_anew(stage, tmp_path)


@contextmanager
def another_clock(stage: Stage, clock: Path) -> Iterator[Path]:
    """West's way out runs by a clock that a file sets: seconds ahead of the true one."""
    clock.write_text("+0")
    shim = Path(__file__).with_name("clocks")
    faked = {"CONSILIUM_TEST_CLOCK": str(clock), "PYTHONPATH": os.pathsep.join([str(shim), str(ROOT)])}
    name = f"join-{WEST}"
    stage.end(name)
    before = len(stage.log(name))
    start_join(stage, WEST, **faked)
    stage.await_log(name, "connected to", after=before)
    try:
        yield clock
    finally:
        clock.write_text("+0")
        stage.end(name)
        start_join(stage, WEST)
