"""Replies that come twice, out of order, too late, from another time or under another's name.

The proxy cannot forge what TLS carries, so these are made where Flower hands messages over: real sites and the real round
loop, with a Grid between them that does as a bad network, a confused relay or a hostile one would.
"""

import random
from pathlib import Path

import pytest

from shared_model.messages import Envelope, Request, TrainRequest
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.scene import Scene
from tests.faults.stage import SITES, study_file

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ROUNDS, WEST = 3, "west"
OTHERS = tuple(site for site in SITES if site != WEST)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene.of(tmp_path, study_file(tmp_path, rounds=ROUNDS, deadline_s=3))


def trains(request: Request, round_: int) -> bool:
    return isinstance(request, TrainRequest) and request.task.round == round_


DUPLICATE = Fault("replies", "duplicate", "every reply arrives twice", "counts once")


@parametrized([DUPLICATE])
def test_a_reply_that_comes_twice_counts_once(scene: Scene, rows: list[Fault], told: Told) -> None:
    assert scene.run(meddle=lambda site, request, reply: [(0.0, reply), (0.0, reply)]) == [SITES] * ROUNDS
    assert scene.failures() == []
    assert scene.violations() == []
    told("all sites counted once in all rounds; the same bits")


REORDERED = Fault("replies", "reordered", "replies arrive in any order, with any delay", "counts the same, to the last bit")


@parametrized([REORDERED])
def test_the_order_of_replies_does_not_matter(scene: Scene, rows: list[Fault], told: Told) -> None:
    dice = random.Random(20261125)
    delayed = scene.run(meddle=lambda site, request, reply: [(dice.uniform(0.0, 0.3), reply)], shuffle=dice)
    assert delayed == [SITES] * ROUNDS
    assert scene.violations() == []
    told("all sites counted in all rounds; the same bits")


STALE = Fault(
    "replies", "stale", "a relay answers round 2 with the site's reply of round 1", "refused by its attempt token, named"
)


@parametrized([STALE])
def test_a_reply_of_another_round_is_refused(scene: Scene, rows: list[Fault], told: Told) -> None:
    kept: dict[str, Envelope] = {}

    def replay(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
        if site == WEST and trains(request, 1):
            kept[site] = reply
        return [(0.0, kept[site] if site == WEST and trains(request, 2) else reply)]

    assert scene.run(meddle=replay) == [SITES, OTHERS, SITES]
    assert scene.failures() == [(WEST, 2, "stale_reply")]
    assert scene.violations() == []
    told("refused as stale in round 2; the same bits as without it there")


LATE = Fault(
    "replies", "late", "a reply of round 1 arrives after the deadline, in round 2", "counts nowhere; named for round 1"
)


@parametrized([LATE])
def test_a_reply_after_the_deadline_counts_nowhere(scene: Scene, rows: list[Fault], told: Told) -> None:
    def tarry(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
        return [(3.2 if site == WEST and trains(request, 1) else 0.0, reply)]

    assert scene.run(meddle=tarry) == [OTHERS, SITES, SITES]
    assert scene.failures() == [(WEST, 1, "deadline")]
    assert scene.violations() == []
    told("missed round 1, counted from round 2 on; the same bits as without it there")


FORGED = Fault("replies", "another's", "a node answers with the reply of another site", "refused, named; the other counts once")


@parametrized([FORGED])
def test_a_reply_of_another_site_is_refused(scene: Scene, rows: list[Fault], told: Told) -> None:
    kept: dict[str, Envelope] = {}

    def steal(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
        if trains(request, 2):
            kept[site] = reply
        return [(0.0, kept[OTHERS[0]] if site == WEST and trains(request, 2) else reply)]

    assert scene.run(meddle=steal) == [SITES, OTHERS, SITES]
    assert scene.failures() == [(WEST, 2, "malformed_reply")]
    assert scene.violations() == []
    told("refused in round 2, counted in round 3; the same bits as without it there")


LOST = Fault("replies", "lost", "no reply of a site arrives in round 2", "named at the deadline; the round goes on")


@parametrized([LOST])
def test_a_reply_that_is_lost_is_waited_for_until_the_deadline(scene: Scene, rows: list[Fault], told: Told) -> None:
    def lose(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
        return [] if site == WEST and trains(request, 2) else [(0.0, reply)]

    assert scene.run(meddle=lose) == [SITES, OTHERS, SITES]
    assert scene.failures() == [(WEST, 2, "deadline")]
    assert scene.violations() == []
    told("named in round 2, counted in round 3; the same bits as without it there")
