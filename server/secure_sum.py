"""The center's half of one secure sum: adding masked numbers, and taking off what did not cancel.

Numbers are added as they arrive and dropped, so memory does not grow with the sites. What the center keeps of each site
beside the sum are sealed letters that it cannot open, and hashes by which it knows a seed when it has rebuilt one.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared_model import masking
from shared_model.errors import FailureCode, MessageError, RefusedError, StudyError
from shared_model.masking import Words
from shared_model.secure_records import (
    Advertisement,
    MaskedShares,
    MaskingSession,
    ReleasedShares,
    is_signed,
    survivors_statement,
)

REBUILDS = 300  # how many choices of shares are tried for a seed before it is given up


@dataclass
class MaskedSum:
    """One secure sum of ``length`` words over the sites of ``session``, identified by ``digest``.

    ``wrong`` names sites that sent shares which do not fit.
    """

    session: MaskingSession
    digest: str
    length: int
    masks: dict[str, MaskedShares] = field(default_factory=dict)
    confirmations: dict[str, str] = field(default_factory=dict)
    released: dict[str, ReleasedShares] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.total: Words = np.zeros(self.length, np.uint64)

    @property
    def survivors(self) -> tuple[str, ...]:
        """The sites whose numbers are in the sum, in order."""
        return tuple(sorted(self.masks))

    @property
    def complete(self) -> bool:
        """Whether no site of the roster went away."""
        return len(self.masks) == len(self.session.roster)

    @property
    def needed(self) -> int:
        """How many sites must survive, confirm and release."""
        return masking.threshold(len(self.session.roster))

    def add(self, site: str, words: Words | None, masks: MaskedShares | None) -> None:
        """Count the numbers of ``site``.

        Raises:
            RefusedError: they are not of this sum, or not what a site of it sends.
        """
        others = {name for name in self.session.sites if name != site}
        if words is None or masks is None:
            raise RefusedError(FailureCode.MALFORMED_REPLY, "nothing masked where masked numbers were asked for")
        if masks.session != self.digest:
            raise RefusedError(FailureCode.STALE_REPLY, "it was masked for another sum")
        if words.size != self.length:
            raise RefusedError(FailureCode.WRONG_SHAPE, f"{words.size} masked numbers where {self.length} are summed")
        if masks.sealed.keys() != others or masks.pairs.keys() != others or site in self.masks:
            raise RefusedError(FailureCode.MALFORMED_REPLY, "shares for other sites than those of the sum")
        self.total += words
        self.masks[site] = masks

    def letters_to(self, site: str) -> dict[str, str]:
        """The letters of the other survivors to ``site``."""
        return {sender: masks.sealed[site] for sender, masks in sorted(self.masks.items()) if sender != site}

    def confirm(self, site: str, signature: str) -> None:
        """Keep the signature with which ``site`` confirms the survivors.

        Raises:
            RefusedError: ``MALFORMED_REPLY`` if it is not its signature of them.
        """
        statement = survivors_statement(self.digest, self.survivors)
        if not is_signed(statement, signature, by=self._advertised(site).identity):
            raise RefusedError(FailureCode.MALFORMED_REPLY, "a signature that does not fit")
        self.confirmations[site] = signature

    def release(self, site: str, shares: ReleasedShares) -> None:
        """Keep the shares that ``site`` released.

        Raises:
            RefusedError: they are not of this sum and its survivors.
        """
        away = set(self.session.sites) - set(self.survivors)
        pairs = {owner: set(inner) for owner, inner in shares.pairs.items()}
        expected = dict.fromkeys(self.survivors, away) if away else {}
        if shares.session != self.digest or shares.own.keys() != set(self.survivors) or pairs != expected:
            raise RefusedError(FailureCode.MALFORMED_REPLY, "shares of other sites than were asked for")
        self.released[site] = shares

    def open(self) -> Words:
        """The sum of the survivors' numbers, modulo 2^64.

        Raises:
            StudyError: a seed cannot be rebuilt from the shares.
        """
        opened = self.total.copy()
        sites = self.session.sites
        away = [site for site in sites if site not in self.masks]
        for owner in self.survivors:
            own = {sites.index(helper): shares.own[owner] for helper, shares in self.released.items()}
            masking.add_mask(opened, self._rebuild(own, self.masks[owner].own, owner), negative=True)
            for gone in away:
                pair = {sites.index(helper): shares.pairs[owner][gone] for helper, shares in self.released.items()}
                # The owner took the mask away if the other's name comes before its own; so it is added again.
                masking.add_mask(opened, self._rebuild(pair, self.masks[owner].pairs[gone], owner), negative=gone > owner)
        return opened

    def _rebuild(self, shares: Mapping[int, str], digest: str, owner: str) -> bytes:
        """The seed whose SHA-256 is ``digest``; helpers whose share does not belong to it are named in ``wrong``."""
        known = {index: bytes.fromhex(share) for index, share in shares.items()}
        for chosen in itertools.islice(itertools.combinations(sorted(known), self.needed), REBUILDS):
            seed = _joined(known, chosen)
            if seed is None or hashlib.sha256(seed).hexdigest() != digest:
                continue
            for index in known.keys() - set(chosen):
                if _joined(known, (*chosen[1:], index)) != seed:
                    self.wrong.add(self.session.sites[index])
            return seed
        raise StudyError(
            f"the masks of site {owner} cannot be taken off: the shares of its seeds do not fit what it said of them"
        )

    def _advertised(self, site: str) -> Advertisement:
        return self.session.roster[self.session.sites.index(site)]


def _joined(shares: Mapping[int, bytes], chosen: Sequence[int]) -> bytes | None:
    try:
        return masking.join({index: shares[index] for index in chosen})
    except MessageError:
        return None
