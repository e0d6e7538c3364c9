"""Files that survive a crash: there whole, as they were before, or not at all."""

import os
from pathlib import Path

from shared_model.crashpoints import crashpoint


def write_durably(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that after a crash it is there whole or not at all. ``mode`` is limited by the process's umask; the
    file is at no moment open to others than it says."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    crashpoint("durable.partial")
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames in ``directory`` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
