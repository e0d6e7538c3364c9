from pathlib import Path

import numpy as np
import pytest

from server.journal import FILE, Journal
from server.records import RoundRecord, SiteFailure, SiteRound
from shared_model.durable import write_durably
from shared_model.errors import FailureCode, StudyError
from shared_model.protocol import Federation, Study, StudyProtocol, Training
from shared_model.variables import Variable

PROTOCOL = StudyProtocol(
    study=Study(name="s", title="t", outcome="o"),
    variables={"age": Variable(kind="numeric", unit="years")},
    network={"kind": "logistic"},  # type: ignore[arg-type]
    training=Training(epochs=1),
    federation=Federation(rounds=3),
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(tmp_path, PROTOCOL, run="r", engine="in-process", seed=3, enrolled=("a", "b"), versions={"x": "1"})


def a_round(number: int) -> RoundRecord:
    site = SiteRound(patients=3, loss=0.5, steps=2, seconds=0.1, update_norm=1.0, tune=None)
    return RoundRecord(number, {"a": site}, 0.5 + number / 10, 1.0, "")


def commit(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        journal.commit_round(a_round(number), {"model": np.full(4, number, np.float32)})


def test_a_reopened_journal_says_what_was_written(journal: Journal, tmp_path: Path) -> None:
    commit(journal, 1, 2)
    journal.add_failure(SiteFailure("b", "train", 2, FailureCode.DEADLINE, "late"))
    journal.add_seconds("train", 1.5)
    journal.add_traffic(down=10, up=20)
    journal.close()
    record = Journal(tmp_path).record()
    assert (record.run, record.seed, record.enrolled, record.protocol) == ("r", 3, ("a", "b"), PROTOCOL)
    assert [r.round for r in record.rounds] == [1, 2]
    assert record.rounds[0].sites["a"].loss == 0.5
    assert record.failures[0].code is FailureCode.DEADLINE
    assert record.phases == {"train": 1.5}
    assert (record.traffic.bytes_down, record.traffic.bytes_up) == (10, 20)
    assert record.finished is None


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "delete"])
def test_a_harmed_checkpoint_is_not_trusted_and_the_one_before_is_taken(journal: Journal, harm: str) -> None:
    commit(journal, 1, 2, 3)
    path = journal.models / "round-0003.safetensors"
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    elif harm == "delete":
        path.unlink()
    else:
        path.write_bytes(content[:20] if harm == "truncate" else b"")
    newest = journal.newest_checkpoint()
    assert newest is not None
    assert newest[0] == 2
    assert newest[1]["model"].tolist() == [2.0] * 4
    assert [record.round for record in journal.rounds()] == [1, 2]


def test_without_a_sound_checkpoint_the_run_starts_anew(journal: Journal) -> None:
    commit(journal, 1)
    (journal.models / "round-0001.safetensors").unlink()
    journal.add_failure(SiteFailure("b", "train", 1, FailureCode.INTERNAL, "x"))
    assert journal.newest_checkpoint() is None
    assert journal.rounds() == ()
    assert journal.record().failures == ()


def test_a_checkpoint_without_its_row_does_not_count(journal: Journal) -> None:
    commit(journal, 1)
    write_durably(journal.models / "round-0002.safetensors", b"killed before the row was written")
    newest = journal.newest_checkpoint()
    assert newest is not None
    assert newest[0] == 1


def test_old_checkpoints_are_dropped_but_those_kept(journal: Journal) -> None:
    commit(journal, 1, 2, 3)
    journal.drop_checkpoints(keep={1, 3})
    assert sorted(path.name for path in journal.models.iterdir()) == ["round-0001.safetensors", "round-0003.safetensors"]


def test_a_round_is_committed_once(journal: Journal) -> None:
    import sqlite3

    commit(journal, 1)
    with pytest.raises(sqlite3.IntegrityError):
        commit(journal, 1)


def test_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no run"):
        Journal(tmp_path)
    assert not (tmp_path / FILE).exists()
