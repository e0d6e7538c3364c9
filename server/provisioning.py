"""The center's folder of a federation: its certificate authority, server certificate, and the hospitals it has enrolled.

::

    federation.toml     name, hosts and port of the center as hospitals reach it
    ca/                 root.crt, and root.key: whoever has it can pose as the center; never replaced while it is there
    tls/                server.crt and server.key of the public port; rotated without stopping a run
    sites/NAME.json     an enrolled hospital: its public keys, and what became of them
    kits/NAME.kit.json  what the hospital gets back
    state/              of ``consilium-center up``

Keys of hospitals are made at the hospital (``consilium-site enrol``) and never come here.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from pydantic import Field

from server import authority
from shared_model import certificates, config_file, flower_home
from shared_model.certificates import Validity
from shared_model.config_file import Strict
from shared_model.durable import write_durably
from shared_model.enrolment import HOST_NAME, SITE_NAME, Kit, SiteRequest, key_sha256, now, read_request, write_json
from shared_model.errors import ConfigurationError, Fault
from shared_model.locking import alone

SERVER_DAYS = 397
SETTINGS = "federation.toml"


class Settings(Strict):
    """``federation.toml``. ``hosts`` are the names and addresses in the server certificate; hospitals are told the first."""

    name: str = Field(pattern=SITE_NAME)
    hosts: tuple[str, ...] = Field(min_length=1)
    port: int = Field(default=443, ge=1, le=65535)
    bind: str = Field(default="0.0.0.0", pattern=HOST_NAME)  # the address that nginx listens at


class NodeKey(Strict):
    """A public key of a hospital's SuperNode. A ``retiring`` key is accepted until its successor has connected."""

    key: str
    status: Literal["active", "retiring", "revoked"] = "active"
    since: str

    @property
    def sha256(self) -> str:
        """Hash of the key."""
        return key_sha256(self.key)


class EnrolledSite(Strict):
    """``sites/NAME.json``."""

    site: str
    title: str
    identity_key: str
    node_keys: tuple[NodeKey, ...]

    @property
    def revoked(self) -> bool:
        """Whether no key of this hospital is accepted any more."""
        return all(key.status == "revoked" for key in self.node_keys)

    @property
    def active(self) -> NodeKey | None:
        """The key in use."""
        return next((key for key in self.node_keys if key.status == "active"), None)


@dataclass(frozen=True)
class Federation:
    """A provisioned folder."""

    folder: Path

    @property
    def settings(self) -> Settings:
        """``federation.toml``.

        Raises:
            ConfigurationError: it is missing or wrong.
        """
        if not (self.folder / SETTINGS).is_file():
            remedy = f"consilium-center provision --out {self.folder} --host NAME"
            raise ConfigurationError([Fault(str(self.folder), "", f"no {SETTINGS}", "a provisioned federation", remedy)])
        return config_file.load(self.folder / SETTINGS, Settings)

    @property
    def root_certificate(self) -> Path:
        """Certificate of the authority."""
        return self.folder / "ca" / "root.crt"

    @property
    def server_certificate(self) -> Path:
        """Certificate of the public port."""
        return self.folder / "tls" / "server.crt"

    @property
    def server_key(self) -> Path:
        """Private key of the public port."""
        return self.folder / "tls" / "server.key"

    @property
    def state(self) -> Path:
        """Folder for what ``consilium-center up`` keeps."""
        return self.folder / "state"

    @property
    def authority(self) -> x509.Certificate:
        """Certificate of the authority."""
        return certificates.read_certificate(self.root_certificate)

    @property
    def validities(self) -> list[Validity]:
        """Until when the certificates hold."""
        server = certificates.read_certificate(self.server_certificate)
        return [
            certificates.validity("the server certificate", server),
            certificates.validity("the certificate of the authority", self.authority),
        ]

    @property
    def warnings(self) -> list[str]:
        """What somebody must do about certificates soon, or now."""
        remedies = (f"consilium-center rotate {self.folder}", "provision a new folder and enrol all hospitals anew")
        return [f"{held}: {remedy}" for held, remedy in zip(self.validities, remedies, strict=True) if held.ending]

    def sites(self) -> dict[str, EnrolledSite]:
        """Hospitals by name, revoked ones too.

        Raises:
            ConfigurationError: a file in ``sites/`` is damaged.
        """
        paths = sorted((self.folder / "sites").glob("*.json"))
        enrolled = [
            config_file.validate_json(path.read_text(encoding="utf-8"), EnrolledSite, where=str(path)) for path in paths
        ]
        return {site.site: site for site in enrolled}

    def site(self, name: str) -> EnrolledSite:
        """The hospital ``name``.

        Raises:
            ConfigurationError: there is none.
        """
        sites = self.sites()
        if name not in sites:
            known = ", ".join(sites) or "none yet"
            remedy = config_file.did_you_mean(name, sites, otherwise="approve its request: consilium-center approve-site")
            raise ConfigurationError([Fault(str(self.folder), name, "no such hospital", f"one of: {known}", remedy)])
        return sites[name]

    def write_site(self, site: EnrolledSite) -> None:
        """Keep what is known of a hospital."""
        write_durably(self.folder / "sites" / f"{site.site}.json", write_json(site))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the folder while it is changed."""
        with alone(self.folder / ".lock", otherwise=f"another command is changing {self.folder}: give this one again"):
            yield


def provision(folder: Path, *, hosts: Sequence[str], name: str | None, port: int, bind: str) -> tuple[Federation, list[str]]:
    """Make ``folder`` a federation, or bring it up to date; also returns what was done, in words. The authority's key is
    made once and kept: hospitals go on trusting it.

    Raises:
        ConfigurationError: names, addresses or port are none; or half an authority is there.
    """
    faults = [
        Fault("--host", "", host, "a DNS name or an IP address, without scheme or port", "give names separated by commas")
        for host in hosts
        if not re.fullmatch(HOST_NAME, host) or (":" in host and not authority.is_address(host))
    ]
    if faults or not hosts:
        raise ConfigurationError(
            faults or [Fault("--host", "", "nothing", "a DNS name or an IP address", "--host fed.example.org")]
        )
    _make_folders(folder)
    federation = Federation(folder)
    with federation.changing():
        done = _make_authority(federation, name or folder.resolve().name)
        before = config_file.load(folder / SETTINGS, Settings) if (folder / SETTINGS).exists() else None
        chosen = name or (before.name if before else re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_"))
        document = {"name": chosen, "hosts": list(hosts), "port": port, "bind": bind}
        settings = config_file.validate(document, Settings, where="consilium-center provision")
        if settings != before:
            write_durably(folder / SETTINGS, tomli_w.dumps(document).encode())
            done.append(f"wrote {folder / SETTINGS}")
        if not federation.server_certificate.exists() or _names(federation.server_certificate) != authority.general_names(
            hosts
        ):
            _renew(federation)
            done.append(f"made a server certificate for {', '.join(hosts)}, valid for {SERVER_DAYS} days")
    return federation, done


def rotate(federation: Federation) -> Validity:
    """A new key and certificate for the public port; a running center takes it up within seconds, and hospitals notice
    nothing. Returns how long it holds."""
    with federation.changing():
        return _renew(federation)


def _renew(federation: Federation) -> Validity:
    certificate, key = authority.issue(
        federation.settings.hosts, authority_key(federation), federation.authority, days=SERVER_DAYS
    )
    # Key first, under a name of its own: whoever reads between the two writes must not get a pair that does not fit.
    write_durably(federation.server_key.with_suffix(".next"), key, mode=0o600)
    write_durably(federation.server_certificate, certificate)
    federation.server_key.with_suffix(".next").replace(federation.server_key)
    return certificates.validity("the server certificate", certificates.read_certificate(federation.server_certificate))


def internal_certificate(federation: Federation) -> tuple[bytes, bytes]:
    """Certificate and key, in PEM, for SuperLink's own address on loopback; valid as long as the authority."""
    root = federation.authority
    days = max((root.not_valid_after_utc - datetime.now(UTC)).days, 1)
    return authority.issue(("127.0.0.1", "localhost"), authority_key(federation), root, days=days)


def approve(federation: Federation, request_file: Path) -> tuple[SiteRequest, Path]:
    """Enrol the hospital that made a request, or its new key, and write its kit; returns the request and the kit's path.

    Raises:
        ConfigurationError: the request does not hold, or asks for what somebody else has.
    """
    request = read_request(request_file)
    with federation.changing():
        known = federation.sites().get(request.site)
        federation.write_site(_enrolled(request, known, where=str(request_file)))
        settings = federation.settings
        kit = Kit(
            federation=settings.name,
            site=request.site,
            host=settings.hosts[0],
            port=settings.port,
            ca_certificate=federation.root_certificate.read_text(encoding="ascii"),
            node_key_sha256=key_sha256(request.node_key),
            identity_key_sha256=key_sha256(request.identity_key),
            app_sha256=flower_home.app_sha256(),
            issued=now(),
        ).signed(authority_key(federation))
        path = federation.folder / "kits" / f"{request.site}.kit.json"
        write_durably(path, write_json(kit))
    return request, path


def revoke(federation: Federation, name: str) -> None:
    """No key of the hospital ``name`` is accepted any more; a running center drops it within seconds.

    Raises:
        ConfigurationError: there is no such hospital.
    """
    with federation.changing():
        site = federation.site(name)
        keys = tuple(key.model_copy(update={"status": "revoked"}) for key in site.node_keys)
        federation.write_site(site.model_copy(update={"node_keys": keys}))


def retire_done(federation: Federation, name: str) -> None:
    """The successor has connected: revoke the ``retiring`` keys of the hospital ``name``."""
    with federation.changing():
        site = federation.site(name)
        keys = tuple(
            key.model_copy(update={"status": "revoked"}) if key.status == "retiring" else key for key in site.node_keys
        )
        federation.write_site(site.model_copy(update={"node_keys": keys}))


def _enrolled(request: SiteRequest, known: EnrolledSite | None, *, where: str) -> EnrolledSite:
    new = NodeKey(key=request.node_key, since=now())
    if known is None:
        return EnrolledSite(site=request.site, title=request.title, identity_key=request.identity_key, node_keys=(new,))
    held = {key.sha256: key for key in known.node_keys}
    if new.sha256 in held:
        if held[new.sha256].status == "revoked":
            remedy = "ask the hospital for new keys: consilium-site enrol --renew"
            raise ConfigurationError([Fault(where, "node_key", "a key that was revoked", "a key that is new", remedy)])
        return known  # approved before: the kit is written again
    if not known.revoked and key_sha256(known.identity_key) != key_sha256(request.identity_key):
        remedy = f"if the hospital lost its keys: consilium-center revoke-site {known.site}, then approve again"
        found = f"other keys than those that {known.site} is enrolled with"
        raise ConfigurationError([Fault(where, "identity_key", found, "the enrolled identity, or another name", remedy)])
    keys = tuple(key.model_copy(update={"status": "retiring"}) if key.status == "active" else key for key in known.node_keys)
    return EnrolledSite(
        site=known.site, title=request.title or known.title, identity_key=request.identity_key, node_keys=(*keys, new)
    )


def _make_folders(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("ca", "tls", "sites", "kits", "state"):
        (folder / name).mkdir(exist_ok=True, mode=0o700)


def _make_authority(federation: Federation, name: str) -> list[str]:
    key_file, certificate_file = federation.folder / "ca" / "root.key", federation.root_certificate
    if key_file.exists() and certificate_file.exists():
        return [f"kept the authority, fingerprint {certificates.spoken(certificates.fingerprint(federation.authority))}"]
    if certificate_file.exists():
        remedy = "restore root.key from your backup; without it, provision a new folder and enrol all hospitals anew"
        raise ConfigurationError([Fault(str(key_file), "", "no such file", "the key beside root.crt", remedy)])
    certificate, key = authority.new_authority(name)
    write_durably(key_file, key, mode=0o600)
    write_durably(certificate_file, certificate.public_bytes(Encoding.PEM))
    return [f"made a certificate authority, fingerprint {certificates.spoken(certificates.fingerprint(certificate))}"]


def authority_key(federation: Federation) -> ec.EllipticCurvePrivateKey:
    """The authority's private key.

    Raises:
        ConfigurationError: it is missing or damaged.
    """
    path = federation.folder / "ca" / "root.key"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        fault = Fault(str(path), "", str(error), "the authority's key", "restore it from your backup; check its permissions")
        raise ConfigurationError([fault]) from None
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _names(certificate_file: Path) -> frozenset[x509.GeneralName]:
    certificate = certificates.read_certificate(certificate_file)
    return frozenset(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
