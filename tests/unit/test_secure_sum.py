"""Both halves of a secure sum against one another, over every way in which sites can go away."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from client.governance.identity import Acquaintances, Identity
from client.governance.secure_sum import SecureSums
from server.secure_sum import MaskedSum
from shared_model import masking
from shared_model.errors import FailureCode, RefusedError, StudyError
from shared_model.secure_records import MaskedShares, MaskingSession, session_digest

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta")
LENGTH = 257


def hospital(name: str, folder: Path, *, minimum: int = 3, roster: Path | None = None) -> SecureSums:
    return SecureSums(
        site=name,
        run="run",
        folder=folder / name,
        identity=Identity.at(folder / f"{name}.key", create=True),
        acquaintances=Acquaintances(listed=roster, met=folder / f"{name}.met.json"),
        minimum_sites=minimum,
    )


class Ward:
    """Some hospitals, their numbers, and a center that may be told to lie."""

    def __init__(self, folder: Path, count: int) -> None:
        self.sites = {name: hospital(name, folder) for name in sorted(NAMES[:count])}
        generator = np.random.default_rng(count)
        self.numbers = {name: generator.integers(0, 2**64, LENGTH, np.uint64) for name in self.sites}
        self.offers = {name: site.advertise() for name, site in self.sites.items()}

    def session(self, attempt: int = 1, names: tuple[str, ...] | None = None) -> MaskingSession:
        return MaskingSession(attempt, tuple(self.offers[name] for name in sorted(names or self.sites)))

    def upload(self, name: str, session: MaskingSession, step: str = "train/1") -> tuple[np.ndarray, MaskedShares]:
        words = self.numbers[name].copy()
        masks = self.sites[name].mask(words, session=session, digest=digest(session), step=step)
        self.offers[name] = masks.following
        return words, masks

    def collect(self, alive: tuple[str, ...], session: MaskingSession | None = None, step: str = "train/1") -> MaskedSum:
        session = session or self.session()
        masked = MaskedSum(session, digest(session), LENGTH)
        for name in alive:
            masked.add(name, *self.upload(name, session, step))
        return masked

    def confirm(self, masked: MaskedSum, helpers: tuple[str, ...]) -> None:
        for name in helpers:
            masked.confirm(name, self.sites[name].confirm(masked.digest, masked.survivors))

    def release(self, masked: MaskedSum, name: str) -> None:
        shares = self.sites[name].release(
            masked.digest, masked.survivors, sealed=masked.letters_to(name), confirmations=masked.confirmations
        )
        masked.release(name, shares)

    def total(self, names: tuple[str, ...]) -> np.ndarray:
        return np.sum([self.numbers[name] for name in names], axis=0, dtype=np.uint64)


def digest(session: MaskingSession, model: bytes = b"model") -> str:
    return session_digest(session, {"round": 1}, {"weights": model})


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path, 4)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_masked_sum_is_the_integer_sum_for_every_pattern_of_drop_outs(tmp_path, count):
    """Bit for bit, for every set that uploads and every set of those that then helps to unmask."""
    needed = masking.threshold(count)
    ward = Ward(tmp_path, count)
    names = tuple(ward.sites)
    for size in range(needed, count + 1):
        for step, alive in enumerate(itertools.combinations(names, size)):
            for helpers in (alive, *itertools.combinations(alive, needed)):
                masked = ward.collect(alive, step=f"train/{size}-{step}")
                if not masked.complete:
                    ward.confirm(masked, helpers)
                for name in helpers:
                    ward.release(masked, name)
                assert masked.open().tobytes() == ward.total(alive).tobytes()
                assert masked.wrong == set()


def test_what_the_center_sees_before_the_masks_are_off_is_not_the_sum(ward):
    masked = ward.collect(tuple(ward.sites))
    assert not np.array_equal(masked.total, ward.total(tuple(ward.sites)))


def test_a_wrong_share_is_noticed_and_its_site_named(ward):
    names = tuple(ward.sites)
    masked = ward.collect(names)
    for name in names:
        ward.release(masked, name)
    spoiled = masked.released[names[0]]
    spoiled.own[names[1]] = "00" * 33
    assert masked.open().tobytes() == ward.total(names).tobytes()
    assert masked.wrong == {names[0]}


def test_seeds_that_do_not_fit_what_a_site_said_of_them_give_no_sum(ward):
    names = tuple(ward.sites)
    masked = ward.collect(names)
    for name in names:
        ward.release(masked, name)
    masked.masks[names[2]].__dict__["own"] = "0" * 64
    with pytest.raises(StudyError, match=f"site {names[2]}"):
        masked.open()


# What the center does not take for a site's part


def test_masked_numbers_of_another_sum_or_length_are_refused(ward):
    session = ward.session()
    masked = MaskedSum(session, digest(session), LENGTH)
    words, masks = ward.upload("alpha", session)
    for other, code in (
        (MaskedSum(session, digest(session, b"another model"), LENGTH), FailureCode.STALE_REPLY),
        (MaskedSum(session, digest(session), LENGTH + 1), FailureCode.WRONG_SHAPE),
    ):
        with pytest.raises(RefusedError) as refused:
            other.add("alpha", words, masks)
        assert refused.value.code is code
    masked.add("alpha", words, masks)
    for site, numbers, given in (("alpha", words, masks), ("beta", words, masks), ("beta", None, None)):
        with pytest.raises(RefusedError):
            masked.add(site, numbers, given)
    assert masked.survivors == ("alpha",)


def test_shares_and_signatures_that_were_not_asked_for_are_refused(ward):
    alive = ("alpha", "beta", "delta")
    masked = ward.collect(alive)
    with pytest.raises(RefusedError):
        masked.confirm("alpha", ward.sites["beta"].confirm(masked.digest, masked.survivors))
    ward.confirm(masked, alive)
    shares = ward.sites["alpha"].release(
        masked.digest, masked.survivors, sealed=masked.letters_to("alpha"), confirmations=masked.confirmations
    )
    shares.own["gamma"] = "00" * 33
    with pytest.raises(RefusedError):
        masked.release("alpha", shares)
