"""How long a site is waited for in a round: a multiple of what its own past rounds took, and never beyond the deadline.

A deadline that fits the slowest hospital makes a hospital that hangs cost as much in every round. So once enough sites have
answered, one that takes far longer than it ever did is given up for this round, by name. While they have not, it is waited for
up to the protocol's deadline. A site that was given up gets twice the time in its next round, so that one whose work has
grown is not shut out. Rounds under secure aggregation are left alone: there a site that drops out costs the others a leg.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from server.journal import Journal
from shared_model.errors import FailureCode

RECENT = 5
FLOOR_S = 300.0  # a relay that was killed is let in again after 65 s; a site may have to restart once without being given up
GiveUp = Callable[[str, float], bool]


class Patience:
    """Learns from the replies of the run in ``journal``, those of earlier starts too."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._factor = journal.protocol.federation.time_out_factor
        self._deadline_s = journal.protocol.federation.deadline_s
        self._inert = journal.protocol.privacy.secure_sum
        self._took: dict[str, deque[float]] = {}
        self._missed: dict[str, int] = {}
        self._given_up: set[str] = set()  # in the round under way
        for event in journal.timeline():
            self._recall(event.kind, event.body)

    def _recall(self, kind: str, body: dict[str, Any]) -> None:
        if body.get("phase") != "train":
            return
        if kind == "answered" and "waited" in body:
            self.learn(body["site"], body["waited"])
        elif kind == "failed" and body["code"] == FailureCode.DEADLINE.value:
            self.miss(body["site"])

    def learn(self, site: str, seconds: float) -> None:
        """``site`` has answered in a round, after ``seconds``."""
        self._took.setdefault(site, deque(maxlen=RECENT)).append(seconds)
        self._missed.pop(site, None)

    def miss(self, site: str) -> None:
        """``site`` has not answered in a round."""
        self._missed[site] = self._missed.get(site, 0) + 1

    def usual_s(self, site: str) -> float | None:
        """The longest of its recent rounds; ``None`` without any."""
        return max(self._took[site]) if site in self._took else None

    def time_out_s(self, site: str) -> float:
        """After how many seconds of a round ``site`` is late by its own measure."""
        usual = self.usual_s(site)
        if usual is None or self._inert:
            return self._deadline_s
        return min(self._deadline_s, max(FLOOR_S, self._factor * usual * 2.0 ** min(self._missed.get(site, 0), 60)))

    def over(self, *, round_: int, enough: Callable[[], bool]) -> GiveUp:
        """Says of a site that was asked so many seconds ago in ``round_`` whether to go on without it, given that ``enough``
        tells whether the others suffice. One that is late and needed is named, once."""
        self._given_up = set()
        named: set[str] = set()

        def give_up(site: str, waited_s: float) -> bool:
            if waited_s < self.time_out_s(site) or self._inert:
                return False
            if enough():
                self._given_up.add(site)
            elif site not in named and waited_s < self._deadline_s:
                named.add(site)
                text = f"{site}: round {round_} has taken {waited_s:.0f} s, {self._usually(site)}"
                self._journal.event("warning", text=f"{text}; it is waited for, as too few others have answered")
            return site in self._given_up

        return give_up

    def reason(self, site: str, waited_s: float) -> str:
        """Why there is no answer of ``site`` after ``waited_s``, in the center's words."""
        if site not in self._given_up or waited_s >= self._deadline_s:
            return "it did not answer before the deadline"
        return f"no answer after {waited_s:.0f} s, {self._usually(site)}; enough others had answered"

    def _usually(self, site: str) -> str:
        return f"its last {len(self._took.get(site, ()))} took at most {self.usual_s(site) or 0:.0f} s"
