"""File systems of their own, to be filled."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path | None]:
    """A file system at ``folder``; None where mounting is not allowed. Processes with mounts of their own, as Consilium's are
    where it runs as root, see only what was mounted before they began."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write until nothing more fits."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as filler:
        for piece in (65536, 4096, 1):
            with suppress(OSError):
                while filler.write(b"\0" * piece):
                    pass
    return file
