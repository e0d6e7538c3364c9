"""What to tell when nothing can be written: a disk that is full or read-only is not a fault of the program, and passes."""

import errno
import sqlite3
from pathlib import Path

from shared_model.durable import write_durably

_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
_OF_SQLITE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
_PROBE, _PROBE_SIZE = ".writable", 65_536


def disk_trouble(error: Exception, *, at: Path) -> str | None:
    """The trouble with the disk of ``at`` that ``error`` is of, and what to do; None if it is of something else."""
    code = getattr(error, "sqlite_errorcode", None)
    of_disk = isinstance(error, OSError) and error.errno in _OF_DISK
    of_sqlite = isinstance(error, sqlite3.OperationalError) and code is not None and code & 0xFF in _OF_SQLITE
    if not of_disk and not of_sqlite:
        return None
    what = error.strerror if isinstance(error, OSError) else str(error)
    return f"nothing can be written to {at}: {what}. Make room there, or have the disk mended; what was committed is kept"


def cannot_write(folder: Path) -> str | None:
    """Why nothing can be written to ``folder``, found by trying; None if it can."""
    probe = folder / _PROBE
    try:
        write_durably(probe, bytes(_PROBE_SIZE))
        probe.unlink()
    except OSError as error:
        return disk_trouble(error, at=folder) or str(error)
    return None
