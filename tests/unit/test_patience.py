"""How long sites are waited for: what is learned, what it bounds, and what becomes of a site that is late by its measure."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.journal import Journal
from server.patience import FLOOR_S, RECENT, Patience
from server.sites import Answer
from server.study import conduct
from shared_model.errors import FailureCode
from shared_model.messages import Envelope
from shared_model.protocol import StudyProtocol
from tests.sites import Loopback, worker

SITES = ("east", "north", "west")
DEADLINE_S, FACTOR = 7200.0, 3.0


def protocol(**federation: object) -> StudyProtocol:
    wanted = {"rounds": 5, "deadline_s": DEADLINE_S, "time_out_factor": FACTOR, "quorum": 0.6} | federation
    document = {
        "study": {"name": "s", "title": "t", "outcome": "o"},
        "variables": {"a": {"kind": "numeric"}, "b": {"kind": "numeric"}},
        "network": {"kind": "logistic"},
        "training": {"epochs": 1, "batch_size": 8, "optimizer": "sgd", "lr": 0.1},
        "federation": wanted,
    }
    return StudyProtocol.model_validate_json(json.dumps(document))


def journal(folder: Path, settings: StudyProtocol | None = None) -> Journal:
    made = settings or protocol()
    return Journal.create(folder, made, run="run", engine="test", seed=7, enrolled=SITES, versions={})


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    with journal(tmp_path_factory.mktemp("run")) as made:
        yield made


def test_a_site_without_a_past_has_until_the_deadline(empty: Journal) -> None:
    assert Patience(empty).time_out_s("east") == DEADLINE_S


def test_the_longest_of_recent_rounds_counts_and_older_ones_do_not(empty: Journal) -> None:
    patience = Patience(empty)
    for seconds in (2000.0, *[500.0, 600.0, 400.0] * 2):
        patience.learn("east", seconds)
    assert patience.usual_s("east") == 600.0
    assert patience.time_out_s("east") == FACTOR * 600.0
    assert patience.time_out_s("north") == DEADLINE_S


def test_a_quick_site_may_restart_once(empty: Journal) -> None:
    patience = Patience(empty)
    patience.learn("east", 1.0)
    assert patience.time_out_s("east") == FLOOR_S


def test_a_round_that_was_missed_doubles_the_time_until_the_next_answer(empty: Journal) -> None:
    patience = Patience(empty)
    patience.learn("east", 200.0)
    times = [patience.time_out_s("east")]
    for _ in range(5):
        patience.miss("east")
        times.append(patience.time_out_s("east"))
    assert times == [600.0, 1200.0, 2400.0, 4800.0, DEADLINE_S, DEADLINE_S]
    patience.learn("east", 900.0)
    assert patience.time_out_s("east") == 2700.0


@given(st.lists(st.one_of(st.none(), st.floats(0.0, 1e5)), max_size=80))
def test_it_is_always_between_floor_and_deadline_and_at_least_the_factor(empty: Journal, history: list[float | None]) -> None:
    patience = Patience(empty)
    for seconds in history:
        patience.miss("east") if seconds is None else patience.learn("east", seconds)
    bound = patience.time_out_s("east")
    assert FLOOR_S <= bound <= DEADLINE_S
    recent = [seconds for seconds in history if seconds is not None][-RECENT:]
    if recent:
        assert bound >= min(DEADLINE_S, FACTOR * max(recent))


def test_under_secure_aggregation_nobody_is_given_up(tmp_path: Path) -> None:
    document = json.loads(protocol().canonical_json)
    document["privacy"]["secure_sum"] = True
    with journal(tmp_path, StudyProtocol.model_validate_json(json.dumps(document))) as made:
        patience = Patience(made)
        patience.learn("east", 1.0)
        assert patience.time_out_s("east") == DEADLINE_S
        assert not patience.over(round_=1, enough=lambda: True)("east", 1e9)


# In a study


@dataclass
class Clocked(Loopback):
    """A roster whose sites take as long as ``takes`` says, in the order of their answers; seconds are not waited for."""

    takes: Callable[[str, int], float] = lambda site, round_: 100.0
    waited: list[tuple[str, int, float]] = field(default_factory=list)

    def ask(
        self, requests: Mapping[str, Envelope], *, deadline_s: float, give_up: Callable[[str, float], bool]
    ) -> Iterator[Answer]:
        rounds = {site: _round(request) for site, request in requests.items()}
        for site in sorted(requests, key=lambda name: self.takes(name, rounds[name])):
            needed = min(self.takes(site, rounds[site]), deadline_s)
            over = next((second for second in _seconds(needed) if give_up(site, second)), needed)
            self.waited.append((site, rounds[site], over))
            if over < needed or needed == deadline_s:
                yield Answer(site, None, FailureCode.DEADLINE, over)
            else:
                yield Answer(site, self.workers[site].handle(requests[site]), None, needed)


def _seconds(until: float) -> Iterator[float]:
    second = 0.0
    while second < until:
        yield second
        second += 50.0


def _round(request: Envelope) -> int:
    record = json.loads(request.header)["record"]
    return int(record["task"]["round"]) if record["kind"] == "train" else 0


def clocked(folder: Path, takes: Callable[[str, int], float]) -> Clocked:
    return Clocked({site: worker(site, folder / "state") for site in SITES}, takes=takes)


def test_a_site_that_hangs_is_given_up_by_name_once_the_others_suffice_and_is_back_in_the_next_round(tmp_path: Path) -> None:
    def hangs_in_round_3(site: str, round_: int) -> float:
        return 1e9 if (site, round_) == ("west", 3) else 200.0

    roster = clocked(tmp_path, hangs_in_round_3)
    with journal(tmp_path):
        pass
    conduct(roster, tmp_path)
    with Journal(tmp_path) as made:
        record = made.record()
    assert ["west" in round_.sites for round_ in record.rounds] == [True, True, False, True, True]
    [failure] = record.failures
    assert (failure.site, failure.round, failure.code) == ("west", 3, FailureCode.DEADLINE)
    assert failure.reason == "no answer after 600 s, its last 2 took at most 200 s; enough others had answered"
    assert ("west", 3, 600.0) in roster.waited


def test_a_site_that_is_needed_is_waited_for_and_named_meanwhile(tmp_path: Path) -> None:
    def late_in_round_3(site: str, round_: int) -> float:
        return 5000.0 if (site, round_) == ("west", 3) else 200.0

    with journal(tmp_path, protocol(quorum=1.0)):
        pass
    conduct(clocked(tmp_path, late_in_round_3), tmp_path)
    with Journal(tmp_path) as made:
        record, warnings = made.record(), [e.body["text"] for e in made.timeline() if e.kind == "warning"]
    assert [len(round_.sites) for round_ in record.rounds] == [3] * 5
    assert record.failures == ()
    expected = "west: round 3 has taken 600 s, its last 2 took at most 200 s; it is waited for, as too few others have answered"
    assert warnings == [expected]


def test_what_was_learned_outlives_the_center(tmp_path: Path) -> None:
    with journal(tmp_path, protocol(rounds=3)):
        pass
    conduct(clocked(tmp_path, lambda site, round_: 1e9 if (site, round_) == ("west", 3) else 250.0), tmp_path)
    with Journal(tmp_path) as made:
        again = Patience(made)
    assert {site: again.time_out_s(site) for site in SITES} == {"east": 750.0, "north": 750.0, "west": 1500.0}
