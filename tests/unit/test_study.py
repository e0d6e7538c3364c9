"""The study's recipe: replies that must not count, sites that come and go, kills between any two steps."""

import json
from pathlib import Path

import numpy as np
import pytest

from client.site_config import Policy
from server.journal import Journal
from server.records import RunRecord
from server.study import conduct
from shared_model.errors import ConfigurationError, FailureCode, StudyError
from shared_model.messages import Envelope
from shared_model.metrics import pool, selection_score
from shared_model.protocol import StudyProtocol
from tests.sites import Loopback, worker

SITES = ("east", "north", "south", "west")


def protocol(**sections: dict[str, object]) -> StudyProtocol:
    document: dict[str, dict[str, object]] = {
        "study": {"name": "s", "title": "t", "outcome": "o"},
        "variables": {"a": {"kind": "numeric"}, "b": {"kind": "numeric"}},
        "network": {"kind": "logistic"},
        "training": {"epochs": 1, "batch_size": 8, "optimizer": "sgd", "lr": 0.1},
        "federation": {"rounds": 4, "deadline_s": 5.0},
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section
    return StudyProtocol.model_validate_json(json.dumps(document))


def start(folder: Path, settings: StudyProtocol, sites: tuple[str, ...] = SITES) -> Path:
    Journal.create(folder, settings, run="run", engine="test", seed=7, enrolled=sites, versions={}).close()
    return folder


def roster(folder: Path, sites: tuple[str, ...] = SITES, **kept: object) -> Loopback:
    return Loopback({site: worker(site, folder / "state") for site in sites}, **kept)  # type: ignore[arg-type]


def finished(folder: Path) -> RunRecord:
    with Journal(folder) as journal:
        return journal.record()


def final_model(folder: Path) -> bytes:
    with Journal(folder) as journal:
        tensors = journal.load_checkpoint(journal.rounds()[-1].round)
    assert tensors is not None
    return tensors["model"].tobytes()


def test_a_study_learns_and_ends_with_every_site_in_every_round(tmp_path: Path) -> None:
    conduct(roster(tmp_path), start(tmp_path, protocol()))
    record = finished(tmp_path)
    assert [tuple(r.sites) for r in record.rounds] == [SITES] * 4
    assert record.failures == ()
    assert record.finished is not None
    assert set(record.evaluations) == set(SITES)
    auc = selection_score("auc", pool([reply.parts["test"] for reply in record.evaluations.values()]))
    assert auc is not None
    assert auc > 0.85
    assert (tmp_path / "models" / "best.safetensors").exists()


def test_the_order_of_replies_does_not_matter(tmp_path: Path) -> None:
    conduct(roster(tmp_path / "a"), start(tmp_path / "a", protocol()))
    conduct(roster(tmp_path / "b", order=lambda names: sorted(names, reverse=True)), start(tmp_path / "b", protocol()))
    assert final_model(tmp_path / "a") == final_model(tmp_path / "b")


# Replies that must not count

POISON = "south"


def edit(reply: Envelope, change: str) -> Envelope:
    document = json.loads(reply.header)
    record = document["record"]
    update = np.frombuffer(reply.payload, np.float32).copy()
    if change == "nan":
        update[0] = np.nan
    elif change == "inf":
        update[-1] = np.inf
    elif change == "shape":
        update = update[:1]
        document["vectors"] = [["update", 1]]
    elif change == "norm":
        update = (update / np.linalg.norm(update) * 1e4).astype(np.float32)
    elif change == "other vector":
        document["vectors"] = [["control", update.size]]
    elif change == "no vector":
        document["vectors"], update = [], update[:0]
    elif change == "missing key":
        del record["patients"]
    elif change == "extra key":
        record["note"] = "patient 17"
    elif change == "negative count":
        record["patients"] = -3
    elif change == "huge count":
        record["patients"] = 10**12
    elif change == "wrong count":
        record["patients"] = 9_999_999
    elif change == "other site":
        record["site"] = "north"
    elif change == "stale":
        record["attempt"] = "0" * 32
    elif change == "nan loss":
        record["loss"] = float("nan")
    elif change == "tune counts":
        record["tune"]["sums"]["positives"] += 1
    elif change == "truncated":
        return Envelope(reply.header, reply.payload[:-3])
    elif change == "garbage":
        return Envelope(b"\x80\x04\x95pickle", reply.payload)
    return Envelope(json.dumps(document).encode(), update.tobytes())


CODES = {
    "nan": FailureCode.NOT_FINITE,
    "inf": FailureCode.NOT_FINITE,
    "shape": FailureCode.WRONG_SHAPE,
    "norm": FailureCode.NORM_EXCEEDED,
    "other vector": FailureCode.MALFORMED_REPLY,
    "no vector": FailureCode.MALFORMED_REPLY,
    "missing key": FailureCode.MALFORMED_REPLY,
    "extra key": FailureCode.MALFORMED_REPLY,
    "negative count": FailureCode.MALFORMED_REPLY,
    "huge count": FailureCode.MALFORMED_REPLY,
    "wrong count": FailureCode.WRONG_COUNT,
    "other site": FailureCode.MALFORMED_REPLY,
    "stale": FailureCode.STALE_REPLY,
    "nan loss": FailureCode.MALFORMED_REPLY,
    "tune counts": FailureCode.WRONG_COUNT,
    "truncated": FailureCode.MALFORMED_REPLY,
    "garbage": FailureCode.MALFORMED_REPLY,
}


def is_training(reply: Envelope) -> bool:
    return b'"train_reply"' in reply.header


@pytest.mark.parametrize("change", sorted(CODES))
def test_a_bad_reply_is_refused_by_name_and_the_model_is_that_of_the_others(tmp_path: Path, change: str) -> None:
    settings = protocol(federation={"max_update_norm": 1e3, "rounds": 2})

    def poison(site: str, request: Envelope, reply: Envelope) -> Envelope:
        return edit(reply, change) if site == POISON and is_training(reply) else reply

    def lose(site: str, request: Envelope, reply: Envelope) -> Envelope | FailureCode:
        return FailureCode.UNREACHABLE if site == POISON and is_training(reply) else reply

    conduct(roster(tmp_path / "bad", tamper=poison), start(tmp_path / "bad", settings))
    conduct(roster(tmp_path / "without", tamper=lose), start(tmp_path / "without", settings))
    record = finished(tmp_path / "bad")
    assert [(f.site, f.round, f.code) for f in record.failures] == [(POISON, 1, CODES[change]), (POISON, 2, CODES[change])]
    assert all(POISON not in r.sites for r in record.rounds)
    assert final_model(tmp_path / "bad") == final_model(tmp_path / "without")


# Sites that come and go


def test_without_quorum_the_study_stops_by_name_and_goes_on_when_the_sites_are_back(tmp_path: Path) -> None:
    start(tmp_path, protocol(federation={"quorum": 0.75}))
    broken = roster(tmp_path)

    def fail_from_round_3(site: str, request: Envelope, reply: Envelope) -> Envelope | FailureCode:
        late = json.loads(request.header)["record"]["task"]["round"] >= 3
        return FailureCode.DEADLINE if late and site in {"east", "west"} else reply

    broken.tamper = fail_from_round_3
    with pytest.raises(StudyError, match=r"only 2 of 4 sites counted in round 3.*east: .*deadline.*west"):
        conduct(broken, tmp_path)
    assert len(finished(tmp_path).rounds) == 2
    conduct(roster(tmp_path), tmp_path)
    conduct(roster(tmp_path / "whole"), start(tmp_path / "whole", protocol(federation={"quorum": 0.75})))
    assert final_model(tmp_path) == final_model(tmp_path / "whole")
    assert finished(tmp_path).failures == ()


def test_a_failed_site_is_asked_again_within_the_round(tmp_path: Path) -> None:
    first: set[str] = set()

    def once(site: str, request: Envelope, reply: Envelope) -> Envelope | FailureCode:
        if site != "north" and is_training(reply) and site not in first:
            first.add(site)
            return FailureCode.DEADLINE
        return reply

    conduct(roster(tmp_path, tamper=once), start(tmp_path, protocol()))
    record = finished(tmp_path)
    assert [tuple(r.sites) for r in record.rounds] == [SITES] * 4
    assert {(f.site, f.round, f.code) for f in record.failures} == {
        (s, 1, FailureCode.DEADLINE) for s in ("east", "south", "west")
    }


def test_a_site_that_comes_late_joins(tmp_path: Path) -> None:
    late = roster(tmp_path, away={"west"})

    def arrive(site: str, request: Envelope, reply: Envelope) -> Envelope:
        if json.loads(request.header)["record"]["task"]["round"] == 2:
            late.away.clear()
        return reply

    late.tamper = arrive
    conduct(late, start(tmp_path, protocol()))
    record = finished(tmp_path)
    assert ["west" in r.sites for r in record.rounds] == [False, False, True, True]
    assert next((f.site, f.phase, f.code) for f in record.failures) == ("west", "describe", FailureCode.UNREACHABLE)


def test_a_sites_own_policy_wins(tmp_path: Path) -> None:
    sites = {site: worker(site, tmp_path / "state") for site in SITES}
    sites["east"] = worker("east", tmp_path / "state", policy=Policy(minimum_patients=1000))
    sites["west"] = worker("west", tmp_path / "state", policy=Policy(tasks=("describe", "evaluate")))
    conduct(Loopback(sites), start(tmp_path, protocol()))
    record = finished(tmp_path)
    assert {f.code for f in record.failures if f.site == "east"} == {FailureCode.TOO_FEW_PATIENTS}
    assert {f.code for f in record.failures if f.site == "west"} == {FailureCode.TASK_NOT_ALLOWED}
    assert all(tuple(r.sites) == ("north", "south") for r in record.rounds)
    assert set(record.evaluations) == {"north", "south", "west"}


def test_odd_sites_take_part_as_far_as_they_can(tmp_path: Path) -> None:
    sites = {
        "external": worker("external", tmp_path / "s", shares=(0.0, 0.0, 1.0)),
        "negative": worker("negative", tmp_path / "s", positives=0.0),
        "usual": worker("usual", tmp_path / "s"),
        "tiny": worker("tiny", tmp_path / "s", patients=3),
        "nobody": worker("nobody", tmp_path / "s", patients=0),
    }
    conduct(Loopback(sites), start(tmp_path, protocol(), tuple(sorted(sites))))
    record = finished(tmp_path)
    assert tuple(record.rounds[0].sites) == ("negative", "tiny", "usual")
    assert {f.site for f in record.failures} == {"nobody"}
    assert record.evaluations["external"].parts["test"].auc is not None
    assert record.evaluations["negative"].parts["test"].auc is None


def test_a_selection_metric_that_cannot_be_had_is_told_before_round_1(tmp_path: Path) -> None:
    sites = {site: worker(site, tmp_path / "state", shares=(0.7, 0.0, 0.3)) for site in SITES}
    with pytest.raises(ConfigurationError, match=r"evaluation.selection[\s\S]*0 tuning patients"):
        conduct(Loopback(sites), start(tmp_path, protocol()))
    assert finished(tmp_path).rounds == ()


# Which model is best, and stopping early


def test_the_best_round_is_the_one_with_the_best_pooled_tuning_metric(tmp_path: Path) -> None:
    # A learning rate at which training gets worse again after some rounds.
    settings = protocol(training={"lr": 30.0}, federation={"rounds": 6}, evaluation={"selection": "log_loss"})
    conduct(roster(tmp_path), start(tmp_path, settings))
    record = finished(tmp_path)
    judged = {r.round - 1: r.selection for r in record.rounds if r.round > 1}
    tune = pool([reply.parts["tune"] for reply in Journal(tmp_path).evaluations(6).values()])
    judged[6] = selection_score("log_loss", tune)
    assert record.best_round == max(judged, key=lambda model: judged[model] or -1e9)


def test_patience_ends_a_study_that_does_not_get_better(tmp_path: Path) -> None:
    settings = protocol(training={"lr": 30.0}, federation={"rounds": 50}, evaluation={"selection": "log_loss", "patience": 2})
    conduct(roster(tmp_path), start(tmp_path, settings))
    record = finished(tmp_path)
    assert len(record.rounds) < 50
    assert "no better round in 2 rounds" in record.stopped
    assert len(record.rounds) - 1 - record.best_round >= 2


# Kills


RULES = {
    "plain": {},
    "momentum": {"server_optimizer": {"kind": "sgd", "lr": 0.7, "momentum": 0.9}},
    "yogi": {"server_optimizer": {"kind": "yogi", "lr": 0.1}},
    "scaffold": {"client_rule": {"kind": "scaffold"}},
    "ditto": {"client_rule": {"kind": "ditto", "strength": 0.1}},
    "personal": {"personal": ["head"]},
}


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("kill_after", [1, 6, 9, 13, 18])
def test_a_run_killed_anywhere_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path, rule: str, kill_after: int) -> None:
    settings = protocol(federation=RULES[rule], network={"kind": "clinical_only", "width": 8, "heads": 2})
    conduct(roster(tmp_path / "whole"), start(tmp_path / "whole", settings))
    killed = roster(tmp_path / "killed")
    answered = 0

    def kill(site: str, request: Envelope, reply: Envelope) -> Envelope:
        nonlocal answered
        answered += 1
        if answered == kill_after:
            raise Killed
        return reply

    killed.tamper = kill
    start(tmp_path / "killed", settings)
    with pytest.raises(Killed):
        conduct(killed, tmp_path / "killed")
    conduct(roster(tmp_path / "killed"), tmp_path / "killed")
    whole, resumed = finished(tmp_path / "whole"), finished(tmp_path / "killed")
    assert final_model(tmp_path / "whole") == final_model(tmp_path / "killed")
    assert [r.round for r in resumed.rounds] == [1, 2, 3, 4]
    without_time = [
        {site: (reply.parts, reply.personal) for site, reply in record.evaluations.items()} for record in (whole, resumed)
    ]
    assert without_time[0] == without_time[1]


def test_personal_layers_differ_between_sites_and_do_not_travel(tmp_path: Path) -> None:
    settings = protocol(federation={"personal": ["head"]}, network={"kind": "clinical_only", "width": 8, "heads": 2})
    everything = protocol(network={"kind": "clinical_only", "width": 8, "heads": 2})
    conduct(roster(tmp_path / "personal"), start(tmp_path / "personal", settings))
    conduct(roster(tmp_path / "all"), start(tmp_path / "all", everything))
    assert len(final_model(tmp_path / "all")) - len(final_model(tmp_path / "personal")) == 4 * (8 + 1)


def test_ditto_reports_the_sites_own_model_beside_the_common_one(tmp_path: Path) -> None:
    settings = protocol(federation={"client_rule": {"kind": "ditto", "strength": 0.01}})
    conduct(roster(tmp_path), start(tmp_path, settings))
    for reply in finished(tmp_path).evaluations.values():
        assert set(reply.personal) == {"tune", "test"}
        assert reply.personal["test"].sums != reply.parts["test"].sums
