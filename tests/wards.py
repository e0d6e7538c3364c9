"""Hospitals that take part in secure sums, without a network between them and a center."""

from pathlib import Path

import numpy as np

from client.governance.identity import Acquaintances, Identity
from client.governance.secure_sum import SecureSums
from server.secure_sum import MaskedSum
from shared_model.secure_records import MaskedShares, MaskingSession, session_digest

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
LENGTH = 257


def hospital(name: str, folder: Path, *, minimum: int = 3, roster: Path | None = None, run: str = "run") -> SecureSums:
    return SecureSums(
        site=name,
        run=run,
        folder=folder / run / name,
        lasting=folder / f"site.{name}",
        identity=Identity.at(folder / f"{name}.key", create=True),
        acquaintances=Acquaintances(listed=roster, met=folder / f"{name}.met.json"),
        minimum_sites=minimum,
    )


class Ward:
    """Some hospitals, their numbers, and a center that may be told to lie."""

    def __init__(self, folder: Path, count: int, *, run: str = "run") -> None:
        folder.mkdir(exist_ok=True)
        self.sites = {name: hospital(name, folder, run=run) for name in sorted(NAMES[:count])}
        generator = np.random.default_rng(count)
        self.numbers = {name: generator.integers(0, 2**64, LENGTH, np.uint64) for name in self.sites}
        self.offers = {name: site.advertise() for name, site in self.sites.items()}
        self.upload_of: dict[str, np.ndarray] = {}

    def session(self, attempt: int = 1, names: tuple[str, ...] | None = None) -> MaskingSession:
        return MaskingSession(attempt, tuple(self.offers[name] for name in sorted(names or self.sites)))

    def upload(
        self, name: str, session: MaskingSession, step: str = "train/1", subject: str | None = None
    ) -> tuple[np.ndarray, MaskedShares]:
        words = self.numbers[name].copy()
        masks = self.sites[name].mask(
            words, session=session, digest=digest(session), step=step, subject=subject or f"model of {step}"
        )
        self.offers[name] = masks.following
        self.upload_of[name] = words
        return words, masks

    def collect(
        self, alive: tuple[str, ...], session: MaskingSession | None = None, step: str = "train/1", subject: str | None = None
    ) -> MaskedSum:
        session = session or self.session()
        masked = MaskedSum(session, digest(session), LENGTH)
        for name in alive:
            masked.add(name, *self.upload(name, session, step, subject))
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
