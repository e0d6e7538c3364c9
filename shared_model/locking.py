"""One process at a time: a lock on a file, which a killed process lets go of."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from shared_model.errors import StudyError

_PATIENCE_S = 0.3  # whoever only looks whether the file is held holds it for a moment


@contextmanager
def alone(file: Path, *, otherwise: str) -> Iterator[None]:
    """Hold ``file`` locked.

    Raises:
        StudyError: another process holds it; ``otherwise`` says what to do.
    """
    with file.open("a") as held:
        deadline = monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > deadline:
                    raise StudyError(otherwise) from None
            sleep(_PATIENCE_S / 10)
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
