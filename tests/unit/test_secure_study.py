"""A study whose center sees sums only: the same results as in the clear, whoever goes away, and whenever the center dies."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import server.results
from client.site_config import Policy
from server.journal import Journal
from server.masked_rounds import FILE
from server.results.document import assemble
from server.study import conduct
from shared_model import masking, messages, metrics
from shared_model.errors import ConfigurationError, FailureCode, StudyError
from shared_model.messages import Envelope
from shared_model.protocol import StudyProtocol
from tests.sites import Loopback, worker
from tests.unit.test_study import SITES, finished, protocol, start

SCHEMA = json.loads((Path(server.results.__file__).parent / "schema.json").read_text())
SECURE = {"secure_sum": True}


def roster(folder: Path, sites: tuple[str, ...] = SITES, **kept: object) -> Loopback:
    return Loopback({site: worker(site, folder / "state") for site in sites}, **kept)  # type: ignore[arg-type]


def model(folder: Path, round_: int | None = None) -> np.ndarray:
    with Journal(folder) as journal:
        tensors = journal.load_checkpoint(round_ or journal.rounds()[-1].round)
    assert tensors is not None
    return tensors["model"]


def both(tmp_path: Path, **federation: object) -> tuple[Path, Path]:
    """The same study in the clear and under masks, each in a folder of its own."""
    for name, privacy in (("clear", {}), ("masked", SECURE)):
        settings = protocol(privacy=privacy, federation={"rounds": 3, **federation})
        conduct(roster(tmp_path / name), start(tmp_path / name, settings))
    return tmp_path / "clear", tmp_path / "masked"


@dataclass
class Wire:
    """Remembers what went by, and loses the replies that ``lose`` says: (site, kind of the request, how often so far)."""

    lose: set[tuple[str, str, int]] = field(default_factory=set)
    seen: list[tuple[str, messages.AnyRecord, messages.Message]] = field(default_factory=list)
    count: dict[tuple[str, str], int] = field(default_factory=dict)

    def __call__(self, site: str, request: Envelope, reply: Envelope) -> Envelope | FailureCode:
        asked = messages.decode(request).record
        self.seen.append((site, asked, messages.decode(reply)))
        number = self.count[site, asked.kind] = self.count.get((site, asked.kind), 0) + 1
        return FailureCode.DEADLINE if (site, asked.kind, number) in self.lose else reply

    def kinds(self) -> list[str]:
        return [asked.kind for _, asked, _ in self.seen]


RULES = {
    "plain": {},
    "scaffold": {"client_rule": {"kind": "scaffold"}},
    "ditto": {"client_rule": {"kind": "ditto"}},
    "adam": {"server_optimizer": {"kind": "adam", "lr": 0.05}},
}


@pytest.mark.parametrize("rule", RULES)
def test_results_are_those_in_the_clear(tmp_path, rule):
    """Weights to fixed-point precision: of each round's mean, half a unit in the last place for each site, divided by the
    patients; and what float32 rounds. Pooled counts exactly."""
    clear, masked = both(tmp_path, **RULES[rule])
    bits = masking.fraction_bits(sites=4, limit=1e3 * (1 << 20))
    fixed_point = 4 * 2.0 ** -(bits + 1) / 144
    assert fixed_point < 2e-11
    first = np.abs(model(clear, 3) - model(masked, 3)).max()
    assert first <= 3 * (fixed_point + 2.0**-24 * 4 * np.abs(model(clear, 3)).max())
    plain, secure = finished(clear), finished(masked)
    for before, after in zip(plain.rounds, secure.rounds, strict=True):
        assert tuple(before.sites) == tuple(after.sites) == SITES
        assert after.selection == pytest.approx(before.selection, abs=1e-6)
        together = metrics.pool([site.tune for site in before.sites.values()])
        assert after.summed.tune.histogram == together.histogram
        assert after.summed.tune.thresholds == together.thresholds
        loss = sum(site.loss * site.patients for site in before.sites.values()) / 144
        assert after.summed.loss == pytest.approx(loss, abs=1e-6)
    tested = metrics.pool([reply.parts["test"] for reply in plain.evaluations.values()])
    assert secure.best_round == plain.best_round
    assert metrics.histogram_auc(secure.summed["test"].histogram) == metrics.histogram_auc(tested.histogram)
    assert secure.summed["test"].sums.count == tested.sums.count
    assert metrics.brier(secure.summed["test"].sums) == pytest.approx(metrics.brier(tested.sums), abs=1e-6)
    if rule == "ditto":
        own = metrics.pool([reply.personal["test"] for reply in plain.evaluations.values()])
        assert secure.summed["personal.test"].histogram == own.histogram
    for site, reply in secure.evaluations.items():
        assert reply.parts["test"].auc == pytest.approx(plain.evaluations[site].parts["test"].auc)
        assert reply.parts["test"].thresholds == plain.evaluations[site].parts["test"].thresholds


def test_nothing_that_adds_up_leaves_a_site_in_the_clear(tmp_path):
    wire = Wire()
    conduct(roster(tmp_path, tamper=wire), start(tmp_path, protocol(privacy=SECURE)))
    assert {"train", "evaluate", "unmask"} <= set(wire.kinds())
    assert "keys" not in wire.kinds(), "keys come with the description and with each masked reply"
    assert "confirm" not in wire.kinds(), "where nobody goes away two legs are enough"
    for _, asked, reply in wire.seen:
        assert not reply.vectors
        if asked.kind == "train":
            assert reply.record.loss is None
            assert reply.record.tune.sums.count == 0
            assert reply.record.tune.histogram.negatives == reply.record.tune.thresholds == ()
            assert reply.masked.size > 0
        if asked.kind == "evaluate":
            assert all(part.histogram.positives == () for part in reply.record.parts.values())
    document = json.loads(json.dumps(assemble(finished(tmp_path))))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert document["privacy"]["secure_sum"] == {"rounds": 4, "sites_summed": [4, 4], "identities": "first use"}
    assert document["pooled"]["patients"] == 48
    advertised = [reply.record.masks.following.masking for _, _, reply in wire.seen if getattr(reply.record, "masks", None)]
    assert len(set(advertised)) == len(advertised) == 4 * (4 + 1 + (finished(tmp_path).best_round != 4))


def test_a_site_that_goes_away_before_its_upload_is_left_out(tmp_path):
    wire = Wire(lose={("south", "train", 2)})
    conduct(roster(tmp_path, tamper=wire), start(tmp_path, protocol(privacy=SECURE)))
    record = finished(tmp_path)
    assert [set(round_.sites) for round_ in record.rounds] == [set(SITES), set(SITES) - {"south"}, set(SITES), set(SITES)]
    assert [(f.site, f.round, f.code) for f in record.failures] == [("south", 2, FailureCode.DEADLINE)]
    assert wire.kinds().count("confirm") == 3
    assert wire.kinds().count("keys") == 1, "its keys were used up by the sum that it missed"


def test_a_site_that_goes_away_after_its_upload_still_counts(tmp_path):
    wire = Wire(lose={("south", "unmask", 2)})
    conduct(roster(tmp_path, tamper=wire), start(tmp_path, protocol(privacy=SECURE)))
    record = finished(tmp_path)
    assert all(set(round_.sites) == set(SITES) for round_ in record.rounds)
    assert [(f.site, f.round) for f in record.failures] == [("south", 2)]


def test_what_drop_outs_leave_equals_the_sum_in_the_clear(tmp_path):
    lose = {("south", "train", 2), ("east", "train", 3)}
    for name, privacy in (("clear", {}), ("masked", SECURE)):
        conduct(roster(tmp_path / name, tamper=Wire(lose=set(lose))), start(tmp_path / name, protocol(privacy=privacy)))
    assert np.abs(model(tmp_path / "clear") - model(tmp_path / "masked")).max() < 1e-6


def test_with_too_few_survivors_a_round_is_begun_anew_and_nothing_unmasked(tmp_path):
    wire = Wire(lose={("south", "train", 2), ("east", "train", 2)})
    conduct(roster(tmp_path, tamper=wire), start(tmp_path, protocol(privacy=SECURE)))
    record = finished(tmp_path)
    assert all(set(round_.sites) == set(SITES) for round_ in record.rounds)
    assert {f.site for f in record.failures} == {"south", "east"}
    again = [asked for _, asked, _ in wire.seen if asked.kind == "train" and asked.task.round == 2]
    assert len(again) == 8
    assert len({asked.masking.roster for asked in again}) == 2


def test_without_three_sites_the_study_stops_and_says_why(tmp_path):
    folder = start(tmp_path, protocol(privacy=SECURE, federation={"quorum": 0.25}))
    few = roster(tmp_path)
    few.away = {"south", "east"}
    with pytest.raises(StudyError, match=r"only 2 of 4 sites described themselves, the protocol asks for 3"):
        conduct(few, folder)
    conduct(roster(tmp_path), folder)
    assert finished(tmp_path).finished is not None


def test_a_study_of_two_sites_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"privacy\.secure_sum"):
        conduct(roster(tmp_path, SITES[:2]), start(tmp_path, protocol(privacy=SECURE), SITES[:2]))


@pytest.mark.parametrize("kind", ["median", "trimmed_mean", "krum"])
def test_rules_that_compare_updates_are_refused_by_name(kind):
    with pytest.raises(ValueError, match=f'aggregation "{kind}" compares'):
        protocol(privacy=SECURE, federation={"aggregation": {"kind": kind}})


def test_a_norm_limit_without_room_in_64_bits_is_refused_by_name():
    with pytest.raises(ValueError, match="max_update_norm"):
        protocol(privacy=SECURE, federation={"max_update_norm": 1e9})


def test_the_site_decides_over_how_many_it_is_summed(tmp_path):
    sites = roster(tmp_path)
    sites.workers["south"] = worker("south", tmp_path / "state", policy=Policy(minimum_summed_sites=5))  # type: ignore[index]
    conduct(sites, start(tmp_path, protocol(privacy=SECURE)))
    record = finished(tmp_path)
    assert all(set(round_.sites) == set(SITES) - {"south"} for round_ in record.rounds)
    assert {(f.site, f.code) for f in record.failures} == {("south", FailureCode.SECURE_SUM_REFUSED)}


def test_a_site_that_requires_secure_sums_takes_no_part_without(tmp_path):
    sites = roster(tmp_path)
    sites.workers["south"] = worker("south", tmp_path / "state", policy=Policy(secure_sum_required=True))  # type: ignore[index]
    conduct(sites, start(tmp_path, protocol()))
    assert all(set(round_.sites) == set(SITES) - {"south"} for round_ in finished(tmp_path).rounds)


# The center dies


class Killed(BaseException):
    pass


def interrupted(tmp_path: Path, settings: StudyProtocol, *, kind: str, number: int) -> Path:
    """A run whose center dies after it has got ``number`` replies to requests of ``kind``."""
    wire = Wire()

    def tamper(site: str, request: Envelope, reply: Envelope) -> Envelope | FailureCode:
        passed = wire(site, request, reply)
        if sum(count for (_, asked), count in wire.count.items() if asked == kind) > number:
            raise Killed
        return passed

    folder = start(tmp_path, settings)
    with pytest.raises(Killed):
        conduct(roster(tmp_path, tamper=tamper), folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The last model of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    conduct(roster(folder), start(folder, protocol(privacy=SECURE)))
    return model(folder).tobytes()


@pytest.mark.parametrize(("kind", "number"), [("train", 6), ("unmask", 4), ("unmask", 7), ("evaluate", 2)])
def test_a_run_whose_center_died_ends_as_if_it_had_not(tmp_path, whole, kind, number):
    folder = interrupted(tmp_path, protocol(privacy=SECURE), kind=kind, number=number)
    wire = Wire()
    conduct(roster(tmp_path, tamper=wire), folder)
    assert model(folder).tobytes() == whole
    assert finished(folder).failures == ()
    assert not (folder / FILE).exists()
    if kind == "unmask":
        assert [a.task.round for _, a, _ in wire.seen if a.kind == "train"][:1] == [3], "round 2 only has to be unmasked"


def test_after_a_crash_while_unmasking_the_sum_is_opened_though_a_site_is_gone(tmp_path):
    folder = interrupted(tmp_path, protocol(privacy=SECURE), kind="unmask", number=6)
    gone = roster(tmp_path)
    gone.away = {"south"}
    conduct(gone, folder)
    assert set(finished(folder).rounds[1].sites) == set(SITES), "its numbers were in the sum already"
    assert set(finished(folder).rounds[2].sites) == set(SITES) - {"south"}


def test_if_too_few_can_unmask_the_study_waits_for_them(tmp_path):
    folder = interrupted(tmp_path, protocol(privacy=SECURE), kind="unmask", number=6)
    gone = roster(tmp_path)
    gone.away = {"south", "east"}
    with pytest.raises(StudyError, match="Bring back east, north, south, west"):
        conduct(gone, folder)
    conduct(roster(tmp_path), folder)
    assert finished(folder).finished is not None
