"""The head of a site's audit log: what is signed, sent to the center and sent on to the other sites.

Each record of a log holds the SHA-256 of the one before, so a head vouches for all records up to it. A head that others
hold makes it evident if the log's end is cut off later, which the log alone could not tell.
"""

import json
from dataclasses import dataclass
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from shared_model.summaries import Record

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


@dataclass(frozen=True)
class Head(Record):
    """Of the log of ``site`` up to and with record ``sequence``: the SHA-256 of that record, signed (Ed25519) with the log's
    ``key``. All hexadecimal."""

    site: Annotated[str, Field(max_length=64)]
    sequence: Annotated[int, Field(ge=0)]
    sha256: Hex32
    key: Hex32
    signature: Hex64

    @classmethod
    def sign(cls, key: Ed25519PrivateKey, *, site: str, sequence: int, sha256: str) -> "Head":
        """The head, signed with ``key``."""
        signature = key.sign(_statement(site, sequence, sha256)).hex()
        return cls(site, sequence, sha256, key.public_key().public_bytes_raw().hex(), signature)

    @property
    def is_genuine(self) -> bool:
        """Whether the signature is by ``key``. Whose key that is, only those know who saw it before."""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.key))
            key.verify(bytes.fromhex(self.signature), _statement(self.site, self.sequence, self.sha256))
        except (InvalidSignature, ValueError):
            return False
        return True


def does_not_follow(head: Head, *, known: Head | None, site: str) -> str | None:
    """Why ``head`` cannot be of the log of ``site`` whose head was ``known`` before; None if it can."""
    if head.site != site or not head.is_genuine:
        return "a head of its audit log that is not its own, or not signed by its key"
    if known is None:
        return None
    if head.key != known.key:
        return "its audit log has another key than before: it was begun anew"
    if head.sequence < known.sequence:
        return f"its audit log ends at record {head.sequence}, and had {known.sequence} before: it was cut short"
    if head.sequence == known.sequence and head.sha256 != known.sha256:
        return f"record {head.sequence} of its audit log is another than before: it was written anew"
    return None


def _statement(site: str, sequence: int, sha256: str) -> bytes:
    return b"consilium audit head\0" + json.dumps([site, sequence, sha256]).encode()
