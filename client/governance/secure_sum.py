"""A site's half of secure sums: masking its numbers, and helping to take off masks without laying any one site open.

What a site must not do is fixed by what is on its disk before an answer leaves, so that a restart changes nothing:
keys are used for one sum; of one sum, of one round, and of one model in whatever round or run, only one set of survivors is
ever unmasked, for the difference of two sums is that of the sites in which they differ; of each site either the
own mask's share is released (its numbers count) or those of its pair masks (they do not), never both, for a request names
the survivors only and all others are the ones that went away.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import TypeAdapter

from client.governance.identity import Acquaintances, Identity
from shared_model import masking
from shared_model.durable import write_durably
from shared_model.errors import FailureCode, RefusedError
from shared_model.masking import SEED_BYTES, SHARE_BYTES, Words
from shared_model.secure_records import (
    Advertisement,
    MaskedShares,
    MaskingSession,
    ReleasedShares,
    is_signed,
    letter_label,
    pair_label,
    survivors_statement,
)

OFFER, SESSION, RELEASED, SUMMED = "offer.json", "session.json", "released.json", "summed.json"


@dataclass(frozen=True)
class Offer:
    """What this site advertised last, and the private halves (hexadecimal)."""

    advertisement: Advertisement
    masking: str
    sealing: str


@dataclass(frozen=True)
class Session:
    """What is kept of a sum between its legs: no seed of this site, only its own shares of them, and the private key that
    opens the letters of the others. ``step`` is the round that is summed, ``subject`` what is summed in whatever round: what is
    asked and of which model. ``survivors`` is set once and never changed."""

    digest: str
    step: str
    roster: tuple[Advertisement, ...]
    sealing: str
    shares: str
    survivors: tuple[str, ...] | None = None
    subject: str = ""


_OFFER: TypeAdapter[Offer] = TypeAdapter(Offer)
_SESSION: TypeAdapter[Session] = TypeAdapter(Session)


@dataclass(frozen=True)
class SecureSums:
    """The secure sums of one run at one site. ``folder`` holds what must survive a restart, ``lasting`` what must survive the
    run, and ``minimum_sites`` is the fewest that the site lets itself be summed with, itself included."""

    site: str
    run: str
    folder: Path
    lasting: Path
    identity: Identity
    acquaintances: Acquaintances
    minimum_sites: int

    def advertise(self) -> Advertisement:
        """New public keys for the next sum. Those advertised before are forgotten."""
        masks, letters = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        unsigned = Advertisement(
            run=self.run,
            site=self.site,
            identity=self.identity.public,
            masking=masks.public_key().public_bytes_raw().hex(),
            sealing=letters.public_key().public_bytes_raw().hex(),
            signature="0" * 128,
        )
        advertisement = _signed(unsigned, self.identity)
        offer = Offer(advertisement, masks.private_bytes_raw().hex(), letters.private_bytes_raw().hex())
        self._write(OFFER, _OFFER.dump_json(offer))
        return advertisement

    def admit(self, session: MaskingSession) -> Offer:
        """Make sure that this site may be summed with the sites of ``session``; returns its own half of the keys.

        Raises:
            RefusedError: ``SECURE_SUM_REFUSED`` for too few sites, an unknown identity, or keys that are not signed, not fresh
                or not its own.
        """
        sites = session.sites
        offer: Offer | None = self._read(OFFER, _OFFER)
        if list(sites) != sorted(set(sites)) or len(sites) > masking.MAXIMUM_SITES:
            raise _refused("a roster that is not in order, or too long")
        if len(sites) < max(self.minimum_sites, masking.MINIMUM_SITES):
            raise _refused(f"a sum over {len(sites)} sites, this site's minimum is {self.minimum_sites}")
        if offer is None or offer.advertisement not in session.roster:
            raise _refused("other keys of this site than it advertised last")
        for site in session.roster:
            if site.run != self.run or not is_signed(site.signed, site.signature, by=site.identity):
                raise _refused(f"keys of {site.site!r} that it did not sign for this run")
        keys = [key for site in session.roster for key in (site.masking, site.sealing)]
        if len(set(keys)) != len(keys) or len({site.identity for site in session.roster}) != len(sites):
            raise _refused("one key under two names")
        self.acquaintances.require({site.site: site.identity for site in session.roster})
        return offer

    def mask(self, words: Words, *, session: MaskingSession, digest: str, step: str, subject: str) -> MaskedShares:
        """Mask ``words`` in place and return what goes with them. ``digest`` is ``session_digest`` of all that was asked,
        ``step`` names the round, ``subject`` what would be the same numbers in another round or run.

        Raises:
            RefusedError: as ``admit``.
        """
        offer = self.admit(session)
        sites, me = session.sites, session.sites.index(self.site)
        seeds = {self.site: secrets.token_bytes(SEED_BYTES)}
        masking.add_mask(words, seeds[self.site])
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(offer.masking))
        for other in session.roster:
            if other.site == self.site:
                continue
            seeds[other.site] = masking.agree(
                private,
                bytes.fromhex(other.masking),
                salt=bytes.fromhex(digest),
                info=pair_label("mask", self.site, other.site),
            )
            masking.add_mask(words, seeds[other.site], negative=other.site < self.site)
        needed = masking.threshold(len(sites))
        split = {site: masking.split(seeds[site], shares=len(sites), needed=needed) for site in sites}
        letters = [b"".join(split[site][recipient] for site in sites) for recipient in range(len(sites))]
        kept = Session(digest, step, session.roster, offer.sealing, letters[me].hex(), subject=subject)
        sealed = {
            other.site: masking.seal(
                _letter_key(kept, other, sender=self.site, recipient=other.site),
                letter,
                envelope=letter_label(digest, self.site, other.site),
            ).hex()
            for other, letter in zip(session.roster, letters, strict=True)
            if other.site != self.site
        }
        following = self.advertise()  # so that the keys of this sum are gone before anything masked with them leaves
        self._write(SESSION, _SESSION.dump_json(kept))
        return MaskedShares(
            session=digest,
            sealed=sealed,
            own=hashlib.sha256(seeds[self.site]).hexdigest(),
            pairs={site: hashlib.sha256(seeds[site]).hexdigest() for site in sites if site != self.site},
            following=following,
            trust=self.acquaintances.trust,
        )

    def confirm(self, digest: str, survivors: tuple[str, ...]) -> str:
        """Sign that the numbers of just ``survivors`` count in the sum ``digest``; no other set will be signed or unmasked.

        Raises:
            RefusedError: ``SECURE_SUM_REFUSED``.
        """
        session = self._settle(digest, survivors)
        assert session.survivors is not None
        return self.identity.sign(survivors_statement(digest, session.survivors))

    def release(
        self, digest: str, survivors: tuple[str, ...], *, sealed: Mapping[str, str], confirmations: Mapping[str, str]
    ) -> ReleasedShares:
        """This site's shares of what did not cancel in the sum of ``survivors``, from the letters ``sealed`` of each of them.

        If a site went away, ``confirmations`` of the survivors are needed from as many sites as the threshold. If none did,
        they are not: the roster as a whole cannot be mistaken, and no two sets get enough shares.

        Raises:
            RefusedError: ``SECURE_SUM_REFUSED``.
        """
        session = self._settle(digest, survivors, confirmations=confirmations)
        released, summed = self._opened(self.folder / RELEASED), self._opened(self.lasting / SUMMED)
        if released.setdefault(session.step, list(survivors)) != list(survivors):
            raise _refused("this round was unmasked before, for other survivors: the difference would be of single sites")
        if summed.setdefault(session.subject or digest, list(survivors)) != list(survivors):
            raise _refused("this model was summed before, over other sites: the difference would be of single sites")
        sites = tuple(site.site for site in session.roster)
        if set(sealed) != set(survivors) - {self.site}:
            raise _refused("letters of other sites than the survivors")
        shares = {self.site: bytes.fromhex(session.shares)}
        for sender in session.roster:
            if sender.site in sealed:
                key = _letter_key(session, sender, sender=sender.site, recipient=self.site)
                envelope = letter_label(digest, sender.site, self.site)
                shares[sender.site] = masking.unseal(key, bytes.fromhex(sealed[sender.site]), envelope=envelope)
        if any(len(letter) != len(sites) * SHARE_BYTES for letter in shares.values()):
            raise _refused("a letter of the wrong length")
        away = [site for site in sites if site not in survivors]
        self._keep(self.lasting / SUMMED, json.dumps(summed).encode())
        self._write(RELEASED, json.dumps(released).encode())
        return ReleasedShares(
            session=digest,
            own={owner: _share(letter, sites.index(owner)) for owner, letter in shares.items()},
            pairs={
                owner: {site: _share(letter, sites.index(site)) for site in away} for owner, letter in shares.items() if away
            },
        )

    def _settle(self, digest: str, survivors: tuple[str, ...], *, confirmations: Mapping[str, str] | None = None) -> Session:
        """The session ``digest`` with its survivors fixed on the disk."""
        session: Session | None = self._read(SESSION, _SESSION)
        if session is None or session.digest != digest:
            raise _refused("not the sum that this site took part in last")
        sites = {site.site: site for site in session.roster}
        if list(survivors) != sorted(set(survivors)) or not set(survivors) <= set(sites):
            raise _refused("survivors that are not of the roster")
        if self.site not in survivors:
            raise _refused("this site is said to have gone away, but it is here")
        needed = masking.threshold(len(sites))
        if len(survivors) < max(needed, self.minimum_sites, masking.MINIMUM_SITES):
            raise _refused(f"only {len(survivors)} survivors")
        if session.survivors not in (None, survivors):
            raise _refused("other survivors than were named before")
        if confirmations is not None and len(survivors) < len(sites):
            statement = survivors_statement(digest, survivors)
            valid = [
                name
                for name, signature in confirmations.items()
                if name in survivors and is_signed(statement, signature, by=sites[name].identity)
            ]
            if len(valid) < needed:
                raise _refused(f"the survivors are confirmed by {len(valid)} sites, {needed} are needed")
        settled = replace(session, survivors=survivors)
        self._write(SESSION, _SESSION.dump_json(settled))
        return settled

    @staticmethod
    def _opened(path: Path) -> dict[str, list[str]]:
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    def _read(self, name: str, adapter: TypeAdapter[Any]) -> Any:
        path = self.folder / name
        return adapter.validate_json(path.read_bytes()) if path.exists() else None

    def _write(self, name: str, content: bytes) -> None:
        self._keep(self.folder / name, content)

    @staticmethod
    def _keep(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, content, mode=0o600)


def _signed(unsigned: Advertisement, identity: Identity) -> Advertisement:
    made = unsigned.__dict__ | {"signature": identity.sign(unsigned.signed)}
    return Advertisement(**made)


def _letter_key(session: Session, other: Advertisement, *, sender: str, recipient: str) -> bytes:
    return masking.agree(
        X25519PrivateKey.from_private_bytes(bytes.fromhex(session.sealing)),
        bytes.fromhex(other.sealing),
        salt=bytes.fromhex(session.digest),
        info=letter_label(session.digest, sender, recipient),
    )


def _share(letter: bytes, index: int) -> str:
    return letter[index * SHARE_BYTES : (index + 1) * SHARE_BYTES].hex()


def _refused(why: str) -> RefusedError:
    return RefusedError(FailureCode.SECURE_SUM_REFUSED, why)
