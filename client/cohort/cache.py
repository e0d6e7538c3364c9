"""Decoded images on disk, so that the second start of a site takes seconds.

A cache file holds pixels and indices, never an identifier. It is found by a key over the content of every input and all
settings, and trusted only if its own SHA-256 holds; anything else is built anew. No cache is never a failure.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_FOLDER = "cohorts"
_ABANDONED_S = 3600.0


def cache_home() -> Path:
    """``${CONSILIUM_CACHE}``, ``${XDG_CACHE_HOME}/consilium`` or ``~/.cache/consilium``."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "consilium"
    return Path(os.environ.get("CONSILIUM_CACHE") or home)


@dataclass(frozen=True)
class Slot:
    """The one place of a site's images of one study: a later key replaces an earlier one, so caches do not pile up."""

    name: str
    key: str

    @property
    def path(self) -> Path:
        """The file, under ``cache_home()``."""
        return cache_home() / _FOLDER / f"{self.name}.safetensors"

    def read(self) -> tuple[dict[str, Tensor] | None, str]:
        """The tensors stored under this key, or None; and in words what was found."""
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return None, "rebuilt: inputs or settings had changed"
                # Cloned, since they are views of the file, which may be cut short or replaced while the site runs.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None, "built"
        except (SafetensorError, OSError, ValueError):
            return None, "rebuilt: the file was damaged"
        if metadata.get("sha256") != _digest(tensors, self.key):
            return None, "rebuilt: the file was damaged"
        return tensors, "read"

    def write(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Store ``tensors`` atomically, readable by this user only; in words why not, if not."""
        metadata = {"key": self.key, "sha256": _digest(tensors, self.key)}
        content = save(dict(tensors), metadata=metadata)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.parent.chmod(0o700)
            _sweep(self.path)
            _write_atomically(self.path, content)
        except OSError as error:
            return f"not kept: {error.strerror or type(error).__name__} ({self.path.parent})"
        return None


def _write_atomically(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # created with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sweep(path: Path) -> None:
    """Remove what killed processes left half written, but not what another is writing now."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        if time.time() - leftover.stat().st_mtime > _ABANDONED_S:
            leftover.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor], key: str) -> str:
    digest = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).numpy().data)
    return digest.hexdigest()
