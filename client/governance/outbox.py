"""Results of private rounds, kept until the run has moved on: a request that comes again gets the same one, no second draw.

Two updates from one round would together tell more of the patients than the one that was charged. A result is on the disk
before it is charged, and may be given out only if the ledger knows its SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared_model.crashpoints import crashpoint
from shared_model.durable import write_durably
from shared_model.messages import Vector

_KEPT_ROUNDS = 3  # the center may go back to a checkpoint of one of the last two rounds


class Outbox:
    """Results of one run, one file a round, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, round_: int, vectors: Mapping[str, Vector], *, record: str) -> str:
        """Keep a result, durably, in place of another one of that round; returns its SHA-256."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # safetensors orders tensors and metadata by itself: the same result has the same bytes.
        content = save(dict(vectors), metadata={"record": record})
        write_durably(self._path(round_), content)
        crashpoint("outbox.written")
        return hashlib.sha256(content).hexdigest()

    def get(self, round_: int, *, sha256: str) -> tuple[dict[str, Vector], str] | None:
        """The vectors and the record of a result; None if it is gone or is not the one of that SHA-256."""
        try:
            content = self._path(round_).read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                return None
            return dict(load(content)), _record(content)
        except (OSError, SafetensorError):
            return None

    def drop_before(self, round_: int) -> None:
        """Forget results that cannot be asked for any more, once ``round_`` has been answered."""
        for path in self._folder.glob("round-*.safetensors"):
            number = path.stem.removeprefix("round-")
            if number.isdigit() and int(number) <= round_ - _KEPT_ROUNDS:
                path.unlink(missing_ok=True)

    def _path(self, round_: int) -> Path:
        return self._folder / f"round-{round_:04d}.safetensors"


def _record(content: bytes) -> str:
    """The metadata of a safetensors file: its header is JSON, and its length stands before it."""
    size = int.from_bytes(content[:8], "little")
    return str(json.loads(content[8 : 8 + size])["__metadata__"]["record"])
