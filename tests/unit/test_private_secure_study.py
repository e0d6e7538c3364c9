"""Differential privacy under secure sums: each site draws its own noise and keeps its own ledger, and the center sees the sum
of noisy updates only."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.governance.budget import Ledger
from client.site_config import Policy
from client.state import lasting
from server.journal import Journal
from server.records import RunRecord
from server.results.document import assemble
from server.study import FederatedStudy
from shared_model import masking
from shared_model.messages import TrainReply
from shared_model.protocol import StudyProtocol
from tests.sites import Loopback
from tests.unit.test_budget import study
from tests.unit.test_private_study import SITES, sites
from tests.unit.test_secure_study import Wire

ROUNDS = 3


def settings(*, masked: bool) -> StudyProtocol:
    plain = study(rounds=ROUNDS, clip_norm=0.5)
    return plain.model_copy(update={"privacy": plain.privacy.model_copy(update={"secure_sum": masked})})


def conduct(folder: Path, *, masked: bool, wire: Wire | None = None, **roster: Any) -> RunRecord:
    Journal.create(folder / "run", settings(masked=masked), run="r", engine="test", seed=7, enrolled=SITES, versions={}).close()
    if wire is not None:
        roster["tamper"] = wire
    with Journal(folder / "run") as journal:
        FederatedStudy(Loopback(sites(folder / "state"), **roster), journal).run()  # type: ignore[arg-type]
        return journal.record()


def model(folder: Path) -> np.ndarray:
    with Journal(folder / "run") as journal:
        tensors = journal.load_checkpoint(ROUNDS)
    assert tensors is not None
    return tensors["model"]


def ledger(folder: Path, site: str) -> Ledger:
    return Ledger(lasting(folder / "state", site), policy=Policy(delta=1e-4))


@pytest.fixture
def known_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws of both arms are the same, in the order of rounds and sites, so that their models can be compared."""
    drawn = {"count": 0}

    def known() -> torch.Generator:
        drawn["count"] += 1
        return torch.Generator().manual_seed((drawn["count"] - 1) % (ROUNDS * len(SITES)))

    monkeypatch.setattr("client.tasks.train.fresh_generator", known)


@pytest.mark.usefixtures("known_noise")
def test_model_and_accounting_are_those_without_masks(tmp_path: Path) -> None:
    records = {name: conduct(tmp_path / name, masked=name == "masked") for name in ("clear", "masked")}
    clear, masked = (assemble(record) for record in records.values())
    for site in SITES:
        assert masked["sites"][site]["privacy"] == clear["sites"][site]["privacy"]
        assert 7.5 < masked["sites"][site]["privacy"]["epsilon"] <= 8.0
        before, after = ledger(tmp_path / "clear", site), ledger(tmp_path / "masked", site)
        assert [charge.mechanism for charge in before.charges()] == [charge.mechanism for charge in after.charges()]
        assert len(after.charges()) == ROUNDS
        assert before.spent() == after.spent() > 0.0
    patients = sum(clear["sites"][site]["n"]["train"] for site in SITES)
    bits = masking.fraction_bits(sites=len(SITES), limit=1e3 * (1 << 20))
    largest = np.abs(model(tmp_path / "clear")).max()
    difference = np.abs(model(tmp_path / "clear") - model(tmp_path / "masked")).max()
    fixed_point = len(SITES) * 2.0 ** -(bits + 1) / patients
    assert difference <= ROUNDS * (fixed_point + 2.0**-24 * len(SITES) * largest), "as the README states"
    assert clear["pooled"]["metrics"]["auc"]["value"] == masked["pooled"]["metrics"]["auc"]["value"]


def test_no_noisy_update_of_a_single_site_is_seen(tmp_path: Path) -> None:
    wire = Wire()
    conduct(tmp_path, masked=True, wire=wire)
    replies = [reply for _, _, reply in wire.seen if isinstance(reply.record, TrainReply)]
    assert len(replies) == ROUNDS * len(SITES)
    for reply in replies:
        assert reply.record.privacy is not None, "what it cost is told by each site"
        assert "update" not in reply.vectors
        assert reply.masked is not None
        assert reply.record.loss is None


def test_a_round_begun_anew_under_other_masks_sends_the_same_noise_and_costs_nothing(tmp_path: Path) -> None:
    wire = Wire(lose={("north", "train", 1)})
    record = conduct(tmp_path, masked=True, wire=wire)
    assert [row.round for row in record.rounds] == [1, 2, 3]
    assert wire.count["north", "train"] == ROUNDS + 1
    for site in SITES:
        assert [(charge.round, charge.reply is not None) for charge in ledger(tmp_path, site).charges()] == [
            (1, True),
            (2, True),
            (3, True),
        ]
