"""What a site itself remembers of a run: personal layers, control variates, its own model (Ditto).

One file a round, written whole or not at all, and not trusted unless it is as it was written. A round's state is kept until
the center says that it cannot be asked for again, because a reply may be lost on its way and the round be run once more from
the state before it.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from shared_model.crashpoints import crashpoint
from shared_model.durable import write_durably
from shared_model.messages import Vector
from shared_model.sealed import seal, unseal

log = logging.getLogger(__name__)


def lasting(state: Path, site: str) -> Path:
    """Folder of ``state`` for what ``site`` keeps whatever the run: approvals, what it answered, its audit log. Its name holds
    a point, and so is no run's."""
    return state / f"site.{site}"


class SiteState:
    """Named vectors of one site in one run, by round, under ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, round_: int) -> dict[str, Vector]:
        """Vectors as they were after ``round_``; empty if there are none (first round, or the disk was lost), or if they were
        harmed, which the log tells."""
        path = self._path(round_)
        try:
            vectors = unseal(path.read_bytes())
        except FileNotFoundError:
            return {}
        if vectors is None:
            log.error("%s is damaged, and not used: this site goes on as if it remembered nothing of the run", path.name)
            return {}
        return {name: vector.astype(np.float32) for name, vector in vectors.items()}

    def load_last(self, round_: int) -> dict[str, Vector]:
        """Vectors after the last round up to ``round_`` of which there are any; empty if there is none."""
        rounds = (int(path.stem.removeprefix("round-")) for path in self.directory.glob("round-*.safetensors"))
        return next((found for r in sorted(rounds, reverse=True) if r <= round_ and (found := self.load(r))), {})

    def save(self, round_: int, vectors: Mapping[str, Vector], *, keep: Collection[int]) -> None:
        """Store ``vectors`` as the state after ``round_``, durably, and drop all others but ``keep``."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(round_)
        write_durably(path, seal(vectors))
        crashpoint("state.saved")
        kept = {self._path(number).name for number in (*keep, round_)}
        for old in self.directory.glob("round-*.safetensors"):
            if old.name not in kept:
                old.unlink()

    def _path(self, round_: int) -> Path:
        return self.directory / f"round-{round_:04d}.safetensors"
