"""What sites and center say to one another for a secure sum, and what a site puts its signature under."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from shared_model.masking import MAXIMUM_SITES
from shared_model.summaries import Record

Key = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # 32 bytes, hexadecimal
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # SHA-256, hexadecimal
Signature = Annotated[str, Field(pattern="^[0-9a-f]{128}$")]  # Ed25519, hexadecimal
Share = Annotated[str, Field(pattern="^[0-9a-f]{66}$")]  # as ``masking.split`` makes them, hexadecimal
Sealed = Annotated[str, Field(max_length=40_000, pattern="^[0-9a-f]+$")]
SiteName = Annotated[str, Field(min_length=1, max_length=64)]


@dataclass(frozen=True)
class Advertisement(Record):
    """Public keys (X25519) that ``site`` made for one sum of ``run`` and will never use again: ``masking`` for what it has
    in common with another site, ``sealing`` for letters to it. Signed with the site's ``identity`` (Ed25519)."""

    run: str
    site: SiteName
    identity: Key
    masking: Key
    sealing: Key
    signature: Signature

    @property
    def signed(self) -> bytes:
        """What the signature is under."""
        return _statement("advertisement", [self.run, self.site, self.identity, self.masking, self.sealing])


@dataclass(frozen=True)
class MaskingSession(Record):
    """Who is to be summed: the advertised keys of all of them, in order of name, the same to each. ``attempt`` counts the
    times that this step of the run was begun."""

    attempt: Annotated[int, Field(ge=1)]
    roster: Annotated[tuple[Advertisement, ...], Field(max_length=MAXIMUM_SITES)]

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in order."""
        return tuple(advertised.site for advertised in self.roster)


@dataclass(frozen=True)
class MaskedShares(Record):
    """What comes with masked numbers: for each other site its shares of this site's seeds, sealed; and the SHA-256 of each
    seed, by which the center knows it when it has rebuilt it. ``following`` are the keys for the next sum."""

    session: Digest
    sealed: dict[SiteName, Sealed]
    own: Digest
    pairs: dict[SiteName, Digest]
    following: Advertisement
    trust: Annotated[str, Field(pattern="^(roster|first use)$")]


@dataclass(frozen=True)
class ReleasedShares(Record):
    """One site's shares: ``own``, of the own mask of each site whose numbers count; ``pairs``, of what such a site (first
    key) had in common with each that went away (second key)."""

    session: Digest
    own: dict[SiteName, Share]
    pairs: dict[SiteName, dict[SiteName, Share]]


def is_signed(statement: bytes, signature: str, *, by: str) -> bool:
    """Whether ``signature`` (hexadecimal) of ``statement`` was made with the key whose public half is ``by`` (hexadecimal)."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(by)).verify(bytes.fromhex(signature), statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def session_digest(session: MaskingSession, statement: Mapping[str, Any], vectors: Mapping[str, bytes]) -> str:
    """What all sites of a sum must agree on, as a SHA-256: who takes part with which keys, and what they were asked.

    Every mask is derived with it. Two sites that were told different rosters, models or rounds have no mask in common, and
    the center gets noise. ``vectors`` are the bytes of the model and of whatever else the request brought.
    """
    roster = [[site.site, site.identity, site.masking, site.sealing] for site in session.roster]
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(vectors.items())}
    return hashlib.sha256(_statement("session", [session.attempt, roster, dict(sorted(statement.items())), hashes])).hexdigest()


def survivors_statement(session: str, survivors: Collection[str]) -> bytes:
    """What a site signs to confirm that the numbers of just ``survivors`` count."""
    return _statement("survivors", [session, sorted(survivors)])


def pair_label(purpose: str, one: str, other: str) -> bytes:
    """What a seed of two sites is for; the same for both."""
    return _statement(purpose, sorted([one, other]))


def letter_label(session: str, sender: str, recipient: str) -> bytes:
    """The envelope of sealed shares, and what their key is for."""
    return _statement("letter", [session, sender, recipient])


def _statement(purpose: str, content: Sequence[Any]) -> bytes:
    return f"consilium/{purpose}/1\n{json.dumps(content, separators=(',', ':'))}".encode()
