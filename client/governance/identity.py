"""A site's identity, and the identities of the other sites that it knows.

A site signs with an Ed25519 key that never leaves its disk. The keys of the other sites come from a file that the hospital
approved together with the study, having compared them with the hospitals themselves, not with the center:

    # roster.toml
    [sites]
    north = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA..."
    south = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA..."

Without such a file a site remembers the key that it sees first under each name, and refuses another one later on. That
keeps out whoever comes later; a center that is hostile from the first day could show every site keys of its own making.
"""

import json
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from pydantic import AfterValidator, Field

from shared_model import config_file
from shared_model.config_file import Strict
from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, FailureCode, Fault, RefusedError
from shared_model.protocol_words import Name


class Identity:
    """The key with which a site signs."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def at(cls, path: Path, *, create: bool = False) -> "Identity":
        """The identity in the file ``path``, OpenSSH's form or PEM; with ``create``, a new one if there is no such file.

        Raises:
            ConfigurationError: the file is missing, or holds something else.
        """
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = Ed25519PrivateKey.generate()
            write_durably(path, made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), mode=0o600)
        try:
            content = path.read_bytes()
            load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in content else load_pem_private_key
            private = load(content, password=None)
        except FileNotFoundError:
            raise _faulty(path, "no such file") from None
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _faulty(path, type(error).__name__) from None
        if not isinstance(private, Ed25519PrivateKey):
            raise _faulty(path, f"a key of another kind ({type(private).__name__})")
        return cls(private)

    @property
    def public(self) -> str:
        """The public key, 64 hexadecimal digits."""
        return self._private.public_key().public_bytes_raw().hex()

    @property
    def line(self) -> str:
        """The public key in OpenSSH's form, as other sites list it."""
        return self._private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    def sign(self, statement: bytes) -> str:
        """The signature of ``statement``, 128 hexadecimal digits."""
        return self._private.sign(statement).hex()


class Acquaintances:
    """The other sites' identities: those of the file ``listed``, or, without one, as first met and kept in ``met``."""

    def __init__(self, *, listed: Path | None, met: Path) -> None:
        self._listed = None if listed is None else read_roster(listed)
        self._met = met

    @property
    def trust(self) -> str:
        """Where the identities come from, as reports say it."""
        return "first use" if self._listed is None else "roster"

    def require(self, identities: dict[str, str]) -> None:
        """Check public keys (hexadecimal) by name of site. Those not met before are kept where there is no file.

        Raises:
            RefusedError: ``SECURE_SUM_REFUSED`` if one is unknown, or not the one that this site knows.
        """
        known = self._first_seen() if self._listed is None else self._listed
        for site, key in identities.items():
            if site in known and known[site] != key:
                raise RefusedError(FailureCode.SECURE_SUM_REFUSED, f"another identity of {site!r} than the one known here")
            if site not in known and self._listed is not None:
                raise RefusedError(FailureCode.SECURE_SUM_REFUSED, f"{site!r} is not in this site's roster")
        if self._listed is None and not identities.items() <= known.items():
            self._met.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._met, json.dumps(known | identities, indent=1).encode())

    def _first_seen(self) -> dict[str, str]:
        return dict(json.loads(self._met.read_bytes())) if self._met.exists() else {}


def _hexadecimal(line: str) -> str:
    try:
        key = load_ssh_public_key(" ".join(line.split()[:2]).encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("no public key in OpenSSH's form || write it as in the file that ends in .pub") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("a key of another kind than ssh-ed25519 || ask that site for its identity, not its node key")
    return key.public_bytes_raw().hex()


class _Roster(Strict):
    sites: dict[Name, Annotated[str, AfterValidator(_hexadecimal)]] = Field(min_length=1)


def read_roster(path: Path) -> dict[str, str]:
    """Public keys (64 hexadecimal digits) by name of site, from a ``roster.toml``.

    Raises:
        ConfigurationError: with every fault of the file.
    """
    return dict(config_file.load(path, _Roster).sites)


def _faulty(path: Path, found: str) -> ConfigurationError:
    expected = "a private Ed25519 key in OpenSSH's form or PEM, without a password"
    return ConfigurationError([Fault(str(path), "", found, expected, "make one with: ssh-keygen -t ed25519 -N '' -f FILE")])
