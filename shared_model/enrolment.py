"""What a hospital and the center exchange once, by mail or memory stick: a request, and the kit that answers it.

Neither holds a secret. The hospital's keys are made and stay at the hospital; a request carries the public halves and is
signed with both private ones, so that nobody can enrol a key that is not theirs. The kit is signed by the center's
certificate authority and names the hospital's keys, so that a kit changed on its way, or made for another hospital, is
refused. What signatures cannot tell is whether the authority is the right one: people compare its fingerprint.
"""

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from pydantic import Field

from shared_model import config_file
from shared_model.config_file import Strict
from shared_model.errors import ConfigurationError, Fault

SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
HOST_NAME = r"^[A-Za-z0-9:.-]{1,253}$"
SIZE_LIMIT = 100_000
REQUEST, KIT = "request", "kit"
_FROM = {
    REQUEST: "the request is what consilium-site enrol wrote for the center",
    KIT: "the kit is what the center sent back for it",
}
_ECDSA = ec.ECDSA(hashes.SHA384())


class SiteRequest(Strict):
    """A hospital asks to be enrolled. ``node_key`` authenticates its SuperNode (ECDSA P-384, OpenSSH), ``identity_key`` the
    hospital itself (Ed25519, OpenSSH). ``replaces`` is the hash of the node key that this one is to replace."""

    kind: Literal["consilium-site-request-1"] = "consilium-site-request-1"
    site: str = Field(pattern=SITE_NAME)
    title: str = Field(default="", max_length=200)
    node_key: str = Field(max_length=2000)
    identity_key: str = Field(max_length=2000)
    created: str = Field(max_length=40)
    replaces: str | None = Field(default=None, max_length=64)
    node_signature: str = Field(default="", max_length=400)
    identity_signature: str = Field(default="", max_length=400)

    @property
    def code(self) -> str:
        """Hash of both keys: what center and hospital compare by telephone before the center approves."""
        return hashlib.sha256(f"{self.node_key}\n{self.identity_key}".encode()).hexdigest()

    def signed(self, node: ec.EllipticCurvePrivateKey, identity: ed25519.Ed25519PrivateKey) -> "SiteRequest":
        """This request with both signatures."""
        body = _body(self, "node_signature", "identity_signature")
        signatures = {"node_signature": _text(node.sign(body, _ECDSA)), "identity_signature": _text(identity.sign(body))}
        return self.model_copy(update=signatures)


class Kit(Strict):
    """The center's answer: where it is, whom to trust, and which keys it has enrolled. ``app_sha256`` is the only code
    that the center will ever ask this site to run, and is part of the installation already."""

    kind: Literal["consilium-site-kit-1"] = "consilium-site-kit-1"
    federation: str = Field(max_length=64)
    site: str = Field(pattern=SITE_NAME)
    host: str = Field(pattern=HOST_NAME)
    port: int = Field(ge=1, le=65535)
    ca_certificate: str = Field(max_length=20_000)
    node_key_sha256: str = Field(max_length=64)
    identity_key_sha256: str = Field(max_length=64)
    app_sha256: str = Field(max_length=64)
    issued: str = Field(max_length=40)
    signature: str = Field(default="", max_length=400)

    @property
    def authority(self) -> x509.Certificate:
        """The certificate of the center's authority."""
        return x509.load_pem_x509_certificate(self.ca_certificate.encode())

    @property
    def address(self) -> str:
        """Host and port as Flower takes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def signed(self, authority: ec.EllipticCurvePrivateKey) -> "Kit":
        """This kit with the authority's signature."""
        return self.model_copy(update={"signature": _text(authority.sign(_body(self, "signature"), _ECDSA))})


def key_sha256(key: str) -> str:
    """Hash of a public key in OpenSSH's form, without its comment."""
    return hashlib.sha256(" ".join(key.split()[:2]).encode()).hexdigest()


def public_line(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> str:
    """A public key in OpenSSH's form."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def now() -> str:
    """The time as requests and kits state it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_request(path: Path) -> SiteRequest:
    """A request whose signatures hold.

    Raises:
        ConfigurationError: it is no request, or was changed, or its keys are of another kind.
    """
    request = config_file.validate_json(_read(path, REQUEST), SiteRequest, where=str(path))
    body = _body(request, "node_signature", "identity_signature")
    try:
        node = load_ssh_public_key(request.node_key.encode())
        identity = load_ssh_public_key(request.identity_key.encode())
        if not (isinstance(node, ec.EllipticCurvePublicKey) and node.curve.name == "secp384r1"):
            raise ValueError("the node key is not ECDSA P-384")
        if not isinstance(identity, ed25519.Ed25519PublicKey):
            raise ValueError("the identity key is not Ed25519")
        node.verify(_bytes(request.node_signature), body, _ECDSA)
        identity.verify(_bytes(request.identity_signature), body)
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        found = str(error) or "a signature that does not fit: the file was changed after it was made"
        remedy = "ask the hospital for the file that consilium-site enrol wrote, unchanged"
        raise ConfigurationError([Fault(str(path), "", found, "a request signed with its own keys", remedy)]) from None
    return request


def read_kit(path: Path) -> Kit:
    """A kit that is signed by the authority named in it. Whether that is the right one, its fingerprint tells.

    Raises:
        ConfigurationError: it is no kit, or was changed.
    """
    kit = config_file.validate_json(_read(path, KIT), Kit, where=str(path))
    try:
        key = kit.authority.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("the authority's key is not ECDSA")
        key.verify(_bytes(kit.signature), _body(kit, "signature"), _ECDSA)
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        found = str(error) or "a signature that does not fit: the file was changed after it was made"
        remedy = "ask the center for the kit again, and compare the fingerprint by telephone"
        raise ConfigurationError([Fault(str(path), "", found, "a kit signed by the center", remedy)]) from None
    return kit


def write_json(document: Strict) -> bytes:
    """A request or kit as it is written to a file."""
    return (document.model_dump_json(indent=2) + "\n").encode()


def _read(path: Path, what: str) -> str:
    """Text of a file of this kind, which may still have faults."""
    expected = f"a {what}"
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise ConfigurationError(
                [Fault(str(path), "", "a file of over 100 kB", expected, f"name the right file: {_FROM[what]}")]
            )
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except FileNotFoundError:
        fault = Fault(str(path), "", "no such file", expected, "check the path, or the folder you are in")
    except OSError as error:
        fault = Fault(str(path), "", error.strerror or str(error), f"a readable {what}", "check its permissions")
    except ValueError:
        remedy = f"name the right file, or get it again, whole: {_FROM[what]}"
        fault = Fault(str(path), "", "no JSON, or a part of it", expected, remedy)
    else:
        kind = document.get("kind") if isinstance(document, dict) else None
        if str(kind).startswith(f"consilium-site-{what}-"):
            return text
        other = next((name for name in _FROM if str(kind).startswith(f"consilium-site-{name}-")), None)
        found = f"a {other}" if other else "another file"
        fault = Fault(str(path), "", found, expected, f"name the right file: {_FROM[what]}")
    raise ConfigurationError([fault])


def _body(document: Strict, *signatures: str) -> bytes:
    """What is signed: everything but the signatures, in one way to write it."""
    fields = document.model_dump(mode="json", exclude=set(signatures))
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _text(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def _bytes(signature: str) -> bytes:
    return base64.b64decode(signature, validate=True)
