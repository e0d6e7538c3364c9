"""One process at a time: a lock on a file, which a killed process lets go of."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_model.errors import StudyError


@contextmanager
def alone(file: Path, *, otherwise: str) -> Iterator[None]:
    """Hold ``file`` locked.

    Raises:
        StudyError: another process holds it; ``otherwise`` says what to do.
    """
    with file.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(otherwise) from None
        yield


def is_held(file: Path) -> bool:
    """Whether some process holds ``file`` locked."""
    if not file.exists():
        return False
    with file.open("r") as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
