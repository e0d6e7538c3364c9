"""What there is to see of a run, read from its journal: the same for the terminal and for the web page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from server.journal import FILE, Event, Journal
from server.records import RoundRecord, RunRecord
from server.results.explained import importance, shares
from server.run_directory import LOCK
from shared_model.explanations import total
from shared_model.locking import is_held
from shared_model.messages import DescribeReply

Status = Literal["running", "stopped", "finished"]
SiteState = Literal["working", "answered", "failed", "away", "idle"]

TIMELINE = 40  # newest events that are told
TOLD_VARIABLES = 6
SLOW, SLOW_FROM_S = 3.0, 10.0


@dataclass(frozen=True)
class SiteView:
    """One site as it stands. ``state`` is of the question asked last; ``tune_auc`` of the model that entered its last round.

    ``trouble`` counts its replies that did not count, ``last_trouble`` tells the newest in the center's words.
    """

    name: str
    state: SiteState
    patients: int | None
    positives: int | None
    rounds: int
    seconds: float | None
    tune_auc: float | None
    trouble: int
    last_trouble: str | None
    epsilon: float | None
    epsilon_limit: float | None


@dataclass(frozen=True)
class ExplanationView:
    """What moves the model after round ``model``, of all sites' patients together: ``shares`` of the modalities, 0..1, and mean
    absolute contributions of the first few ``variables``, in log odds; the largest first."""

    model: int
    sites: int
    shares: tuple[tuple[str, float], ...]
    variables: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class RunView:
    """A run as it stands.

    ``curve`` has (model, pooled score on tuning patients) for each judged model, larger is better for ``metric`` "auc" and
    smaller for losses. ``seconds_left`` is guessed from the rounds of this start, None where there is nothing to guess by.
    ``timeline`` has (time of day in UTC, text), newest first.
    """

    name: str
    study: str
    title: str
    status: Status
    engine: str
    phase: str
    round: int
    rounds: int
    started: str
    finished: str | None
    seconds_left: float | None
    metric: str
    curve: tuple[tuple[int, float], ...]
    sites: tuple[SiteView, ...]
    timeline: tuple[tuple[str, str], ...]
    has_report: bool
    explanation: ExplanationView | None = None

    @property
    def troubled(self) -> tuple[SiteView, ...]:
        """Sites of which a reply did not count."""
        return tuple(site for site in self.sites if site.trouble)

    @property
    def has_budget(self) -> bool:
        """Whether some site spends a privacy budget."""
        return any(site.epsilon is not None for site in self.sites)

    @property
    def slow(self) -> frozenset[str]:
        """Sites whose last round took more than ``SLOW`` times as long as the median of all: named, so that nobody wonders."""
        times = sorted(site.seconds for site in self.sites if site.seconds is not None)
        if len(times) < 3:
            return frozenset()
        limit = SLOW * times[len(times) // 2]
        return frozenset(
            site.name for site in self.sites if site.seconds is not None and site.seconds > max(limit, SLOW_FROM_S)
        )


def find_runs(folder: Path) -> list[Path]:
    """Run directories in ``folder``, newest first; ``folder`` may be one itself."""
    if (folder / FILE).exists():
        return [folder]
    found = [path.parent for path in folder.glob(f"*/{FILE}")]
    return sorted(found, key=lambda path: (path / FILE).stat().st_mtime, reverse=True)


def look(directory: Path) -> RunView:
    """The run in ``directory`` as it stands.

    Raises:
        StudyError: there is no run, or its journal is damaged.
    """
    with Journal(directory) as journal:
        record, events = journal.record(), journal.timeline()
    current = _since_last_start(events)
    status = _status(record, directory)
    last = record.rounds[-1].round if record.rounds else 0
    return RunView(
        name=directory.resolve().name,
        study=record.protocol.study.name,
        title=record.protocol.study.title,
        status=status,
        engine=record.engine,
        phase="finished" if status == "finished" else _latest(current, "phase", "name") or "starting",
        round=last,
        rounds=record.protocol.federation.rounds,
        started=record.started,
        finished=record.finished,
        seconds_left=_seconds_left(current, done=last, rounds=record.protocol.federation.rounds)
        if status == "running"
        else None,
        metric=record.protocol.evaluation.selection,
        curve=_curve(record.rounds),
        sites=tuple(_site(name, record, _states(current)) for name in record.enrolled),
        timeline=tuple((event.at[11:19], text) for event in reversed(events) if (text := _told(event)))[:TIMELINE],
        has_report=(directory / "report.html").exists(),
        explanation=_explanation(record),
    )


def _status(record: RunRecord, directory: Path) -> Status:
    if is_held(directory / LOCK):
        return "running"
    return "finished" if record.finished else "stopped"


def _since_last_start(events: Sequence[Event]) -> list[Event]:
    """Events of the newest start of the run: each start gathers the sites anew."""
    starts = [index for index, event in enumerate(events) if event.kind == "phase" and event.body["name"] == "describe"]
    return list(events[starts[-1] :]) if starts else list(events)


def _latest(events: Sequence[Event], kind: str, key: str) -> Any:
    return next((event.body[key] for event in reversed(events) if event.kind == kind), None)


def _seconds_left(events: Sequence[Event], *, done: int, rounds: int) -> float | None:
    restored = next((event for event in events if event.kind == "restored"), None)
    if restored is None or done <= restored.body["round"]:
        return None
    passed = (datetime.now(UTC) - datetime.fromisoformat(restored.at)).total_seconds()
    return float(passed / (done - restored.body["round"]) * (rounds - done))


def _curve(rounds: Sequence[RoundRecord]) -> tuple[tuple[int, float], ...]:
    # Round k judges the model that enters it, which is the one after round k - 1. Losses are kept negated.
    return tuple((row.round - 1, abs(row.selection)) for row in rounds if row.selection is not None and row.round > 1)


def _states(events: Sequence[Event]) -> Mapping[str, SiteState]:
    states: dict[str, SiteState] = {}
    for event in events:
        if event.kind == "asked":
            states |= dict.fromkeys(event.body["sites"], "working")
        elif event.kind == "answered":
            states[event.body["site"]] = "answered"
        elif event.kind == "failed":
            states[event.body["site"]] = "away" if event.body["code"] == "unreachable" else "failed"
        elif event.kind == "finished":
            states = dict.fromkeys(states, "idle")
    return states


def _site(name: str, record: RunRecord, states: Mapping[str, SiteState]) -> SiteView:
    described = record.descriptions.get(name)
    own = [(row.round, row.sites[name]) for row in record.rounds if name in row.sites]
    failures = [failure for failure in record.failures if failure.site == name]
    last = own[-1][1] if own else None
    return SiteView(
        name=name,
        state=states.get(name, "idle"),
        patients=_count(described, "patients"),
        positives=_count(described, "positives"),
        rounds=len(own),
        seconds=last.seconds if last else None,
        tune_auc=last.tune.auc.value if last and last.tune and last.tune.auc else None,
        trouble=len(failures),
        last_trouble=f"round {failures[-1].round}: {failures[-1].reason}" if failures else None,
        epsilon=last.privacy.epsilon_total if last and last.privacy else None,
        epsilon_limit=last.privacy.limit if last and last.privacy else None,
    )


def _explanation(record: RunRecord) -> ExplanationView | None:
    """The newest explanation: of the best model where there is one, before that of a model on the way."""
    model = record.best_round if record.explanations else max(record.drift, default=0)
    replies = record.explanations or record.drift.get(model, {})
    if not replies:
        return None
    pooled = total(reply.summary for reply in replies.values())
    found, sizes = shares(pooled, record.protocol), importance(pooled, record.protocol) or {}
    return ExplanationView(model, len(replies), _largest_first(found), _largest_first(sizes)[:TOLD_VARIABLES])


def _largest_first(sizes: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(sizes.items(), key=lambda item: -item[1]))


def _count(described: DescribeReply | None, what: Literal["patients", "positives"]) -> int | None:
    if described is None:
        return None
    counts = [getattr(part, what) for part in described.parts.values()]
    return None if any(count is None for count in counts) else sum(counts)


def _told(event: Event) -> str | None:
    """One line for people; None for what the rest of the view shows already."""
    body = event.body
    if event.kind == "failed":
        return f"{body['site']} does not count ({body['phase']}): {body['reason']}"
    if event.kind == "committed":
        return f"round {body['round']} committed in {body['seconds']:.1f} s"
    if event.kind == "restored" and body["round"]:
        return f"goes on after round {body['round']}"
    if event.kind == "quorum missed":
        return (
            f"round {body['round']}, attempt {body['attempt']}: too few sites answered ({', '.join(body['counted']) or 'none'})"
        )
    if event.kind == "finished":
        return f"finished: {body['stopped']}; best is the model after round {body['best_round']}"
    if event.kind == "phase":
        return f"phase: {body['name']}" if body["name"] != "train" else None
    return str(body["text"]) if event.kind == "warning" else None
