"""Which patients train, tune and test: by share and outcome, the same on every machine."""

import hashlib
from collections.abc import Mapping, Sequence

from client.site_config import Split
from shared_model.messages import Part

PARTS: tuple[Part, ...] = ("train", "tune", "test")
_PRIORITY: tuple[Part, ...] = ("train", "test", "tune")


def split_by_share(patients: Sequence[str], labels: Sequence[int], split: Split) -> dict[str, Part]:
    """The part of each patient. Each class is cut at the shares of ``split``, after ordering its patients by
    SHA-256 of the seed and the identifier: independent of the order of rows and of other classes.

    Parts of a class are sized by largest deficit; each part with a share gets one patient before any gets a second,
    in the order train, test, tune, so that the smallest classes can still be learned, then judged.
    """
    shares: dict[Part, float] = {part: getattr(split, part) for part in _PRIORITY}
    parts: dict[str, Part] = {}
    for outcome in sorted(set(labels)):
        members = [patient for patient, label in zip(patients, labels, strict=True) if label == outcome]
        ordered = iter(shuffled(members, seed=split.seed))
        for part, size in sizes(len(members), shares).items():
            parts |= {next(ordered): part for _ in range(size)}
    return parts


def shuffled(patients: Sequence[str], *, seed: int) -> list[str]:
    """``patients`` in the site's own random order: by SHA-256 of the seed and the identifier."""
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}\x1f{patient}".encode()).digest())


def sizes(count: int, shares: Mapping[Part, float]) -> dict[Part, int]:
    """Patients of each part with a share, of ``count`` in all."""
    wanted = [part for part in _PRIORITY if shares.get(part, 0.0) > 0.0]
    found = {part: int(place < count) for place, part in enumerate(wanted)}
    for _ in range(count - sum(found.values())):
        neediest = max(wanted, key=lambda part: shares[part] * count - found[part])
        found[neediest] += 1
    return found
