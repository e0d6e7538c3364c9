"""Certificates as center and hospital read them: fingerprints that people compare, and how long they still hold."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shared_model.errors import ConfigurationError, Fault

WARN_DAYS = 30


@dataclass(frozen=True)
class Validity:
    """Until when something holds, and how it is called."""

    what: str
    until: datetime

    def left(self, *, now: datetime | None = None) -> timedelta:
        """Time until it expires; negative afterwards."""
        return self.until - (now or datetime.now(UTC))

    @property
    def expired(self) -> bool:
        """Whether it holds no more."""
        return self.left() <= timedelta(0)

    @property
    def ending(self) -> bool:
        """Whether it has expired, or will within ``WARN_DAYS``."""
        return self.left() <= timedelta(days=WARN_DAYS)

    def __str__(self) -> str:
        day = self.until.strftime("%Y-%m-%d")
        if self.expired:
            return f"{self.what} expired on {day}"
        return f"{self.what} is valid until {day}, {self.left().days} more days"


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, as 64 hexadecimal digits."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def spoken(digest: str) -> str:
    """The first 128 bits of a fingerprint in groups of four digits, to be compared by telephone.

    >>> spoken("0123456789abcdef" * 4)
    '0123 4567 89ab cdef 0123 4567 89ab cdef'
    """
    return " ".join(digest[start : start + 4] for start in range(0, 32, 4))


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        fault = Fault(str(path), "", error.strerror or str(error), "a certificate in PEM", "check the path and its permissions")
    except ValueError:
        fault = Fault(str(path), "", "no certificate in PEM", "-----BEGIN CERTIFICATE-----", "get the file again")
    raise ConfigurationError([fault])


def validity(what: str, certificate: x509.Certificate) -> Validity:
    """How long ``certificate`` holds."""
    return Validity(what, certificate.not_valid_after_utc)
