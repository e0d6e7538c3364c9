"""A hospital's own keys, which never leave it, and the kit that it got for their public halves.

``home`` is the folder of the relay, the part of a hospital that has a network; no patient's data is in it::

    node.key        authenticates the SuperNode to the center (ECDSA P-384, OpenSSH)
    identity.key    signs for the hospital itself (Ed25519, OpenSSH)
    request.json    what was sent to the center
    center.json     fingerprint of the center that was accepted at the first join
    flower/         home of Flower's processes, read-only
    logs/, warm/, online    of ``consilium-site join``
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key

from shared_model.certificates import fingerprint, read_certificate, spoken
from shared_model.durable import write_durably
from shared_model.enrolment import Kit, SiteRequest, key_sha256, now, public_line, read_kit, read_request, write_json
from shared_model.errors import ConfigurationError, Fault

HOME = "CONSILIUM_HOME"
EXPECTED_DIGITS = 16


def default_home(site: str) -> Path:
    """``$CONSILIUM_HOME``, or a folder of the site's name in the user's own."""
    return Path(os.environ[HOME]) if os.environ.get(HOME) else Path.home() / ".consilium" / site


@dataclass(frozen=True)
class Home:
    """The folder of a hospital's relay."""

    folder: Path

    @property
    def node_key(self) -> Path:
        """Private key of the SuperNode."""
        return self.folder / "node.key"

    @property
    def next_node_key(self) -> Path:
        """A new private key that the center has not approved yet."""
        return self.folder / "node.key.next"

    @property
    def identity_key(self) -> Path:
        """Private key of the hospital."""
        return self.folder / "identity.key"

    @property
    def request(self) -> Path:
        """The last request."""
        return self.folder / "request.json"

    @property
    def root_certificate(self) -> Path:
        """Certificate of the center's authority, from the kit."""
        return self.folder / "center.crt"

    @property
    def flower(self) -> Path:
        """Home of Flower's processes."""
        return self.folder / "flower"

    def public_keys(self) -> dict[str, str]:
        """Hash of each public key by the file of its private one."""
        keys = {}
        for path in (self.node_key, self.next_node_key, self.identity_key):
            if path.exists():
                keys[path.name] = key_sha256(public_line(_public(path)))
        return keys


def enrol(home: Home, *, site: str, title: str, renew: bool = False) -> SiteRequest:
    """Make the hospital's keys, unless they are there, and a request to be enrolled; with ``renew``, a new node key, which
    takes over when the kit for it has come.

    Raises:
        ConfigurationError: the folder belongs to another site, or there is nothing to renew.
    """
    home.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if home.request.exists() and (other := read_request(home.request).site) != site:
        raise ConfigurationError([_of_another(home, other, site)])
    if renew and not home.node_key.exists():
        remedy = "leave out --renew"
        raise ConfigurationError([Fault("--renew", "", f"no keys in {home.folder}", "keys to replace", remedy)])
    node_file = home.next_node_key if renew else home.node_key
    if not node_file.exists():
        _write_key(node_file, ec.generate_private_key(ec.SECP384R1()))
    if not home.identity_key.exists():
        _write_key(home.identity_key, ed25519.Ed25519PrivateKey.generate())
    node, identity = _read_key(node_file), _read_key(home.identity_key)
    assert isinstance(node, ec.EllipticCurvePrivateKey)
    assert isinstance(identity, ed25519.Ed25519PrivateKey)
    request = SiteRequest(
        site=site,
        title=title,
        node_key=public_line(node.public_key()),
        identity_key=public_line(identity.public_key()),
        created=now(),
        replaces=key_sha256(public_line(_public(home.node_key))) if renew else None,
    ).signed(node, identity)
    write_durably(home.request, write_json(request))
    return request


def accept_kit(
    home: Home, kit_file: Path, *, expect: str | None = None, keep_authorities: bool = False
) -> tuple[Kit, list[str]]:
    """Check a kit against this hospital's keys and the center accepted before, and keep what Flower needs of it; also
    returns what was done, in words. ``expect`` is the fingerprint that the center told by telephone. ``keep_authorities``
    leaves those that are trusted as they are, for a connection that is at work with them.

    Raises:
        ConfigurationError: the kit is for other keys, or of another center.
    """
    kit = read_kit(kit_file)
    _check_keys(home, kit, kit_file)
    done = _check_center(home, kit, kit_file, expect)
    if home.next_node_key.exists() and home.public_keys()[home.next_node_key.name] == kit.node_key_sha256:
        home.next_node_key.replace(home.node_key)
        done.append("the new key of this site is in use from now on")
    if not (keep_authorities and home.root_certificate.exists()):
        write_durably(home.root_certificate, kit.ca_certificate.encode())
    return kit, done


def _check_keys(home: Home, kit: Kit, kit_file: Path) -> None:
    held = home.public_keys()
    remedy = f"name the --home in which {kit.site} was enrolled; if it was not yet: consilium-site enrol SITE.toml "
    remedy += f"--home {home.folder}, send the request to the center, and use the kit it returns"
    if home.node_key.name not in held:
        found = f"no keys in {home.folder}"
        raise ConfigurationError([Fault("--home", "", found, f"the keys that {kit.site} enrolled", remedy)])
    expected = {kit.node_key_sha256, kit.identity_key_sha256}
    if kit.identity_key_sha256 != held.get(home.identity_key.name) or not expected <= set(held.values()):
        found = f"a kit for other keys than those in {home.folder}"
        remedy = f"use the kit for the newest request, or name the --home in which {kit.site} was enrolled"
        raise ConfigurationError([Fault(str(kit_file), "node_key_sha256", found, "a kit for this site's keys", remedy)])


def _check_center(home: Home, kit: Kit, kit_file: Path, expect: str | None) -> list[str]:
    digest = fingerprint(kit.authority)
    wanted = "".join(character for character in (expect or "").lower() if character in "0123456789abcdef")
    if expect is not None and len(wanted) < EXPECTED_DIGITS:
        remedy = 'give the first four groups or more of what the center told by telephone: --expect "0123 4567 89ab cdef"'
        found = f"{len(wanted)} hexadecimal digits"
        raise ConfigurationError([Fault("--expect", "", found, f"a fingerprint, {EXPECTED_DIGITS} digits or more", remedy)])
    if expect is not None and not digest.startswith(wanted):
        remedy = "do not join; ask the center, on a number that you know, which fingerprint is right"
        found = f"a kit of a center with fingerprint {spoken(digest)}"
        raise ConfigurationError([Fault(str(kit_file), "ca_certificate", found, expect, remedy)])
    pinned = home.folder / "center.json"
    if not pinned.exists():
        write_durably(pinned, json.dumps({"federation": kit.federation, "fingerprint": digest}).encode())
        return [f"accepted the center with fingerprint {spoken(digest)}; compare it by telephone"]
    known = json.loads(pinned.read_text(encoding="utf-8"))["fingerprint"]
    if known != digest:
        found = f"a kit of a center with fingerprint {spoken(digest)}, not of the one joined before, {spoken(known)}"
        remedy = f"ask the center by telephone; if it did start anew, delete {pinned} and join with --expect"
        raise ConfigurationError([Fault(str(kit_file), "ca_certificate", found, "a kit of the same center", remedy)])
    return []


def root_validity(home: Home) -> list[str]:
    """What somebody must do about the center's authority soon, in words."""
    from shared_model.certificates import validity

    held = validity("the certificate of the center's authority", read_certificate(home.root_certificate))
    return [f"{held}: ask the center for a new kit"] if held.ending else []


def _of_another(home: Home, other: str, site: str) -> Fault:
    remedy = "use another --home for this site, or correct site.name"
    return Fault("--home", "", f"{home.folder} holds the keys of site {other}", f"those of {site}, or none", remedy)


def _public(path: Path) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
    return _read_key(path).public_key()


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        remedy = f"restore it from a backup, or move {path.parent} away, enrol again, and let the center revoke the old keys"
        raise ConfigurationError([Fault(str(path), "", str(error), "a private key", remedy)]) from None
    assert isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    return key


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    write_durably(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), mode=0o600)
