"""Seeds that follow from what they are for, so that a resumed run draws what an uninterrupted one would have drawn."""

import hashlib


def derive(seed: int, *purpose: object) -> int:
    """A seed of 63 bits for one purpose of a run, e.g. ``derive(seed, "train", round, site)``.

    Independent of order, process and machine; distinct purposes give unrelated seeds. Not for noise that must stay secret.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
