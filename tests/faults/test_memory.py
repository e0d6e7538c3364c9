"""A worker that cannot allocate what training needs."""

import multiprocessing
from pathlib import Path

import pytest

from shared_model.errors import FailureCode
from shared_model.protocol import StudyProtocol
from tests.faults import thirsty_site
from tests.faults.rows import Fault, Told, parametrized

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

WIDTH = 768  # the model has 85 MB, more than a process keeps at hand of what it freed
PROTOCOL = StudyProtocol.model_validate(
    {
        "study": {"name": "s", "title": "t", "outcome": "o"},
        "variables": {"a": {"kind": "numeric", "unit": "mm"}, "b": {"kind": "numeric", "unit": "mm"}},
        "network": {"kind": "clinical_only", "width": WIDTH, "heads": 2, "modality_dropout": 0.0},
        "training": {"epochs": 1, "batch_size": 16},
        "federation": {"rounds": 3, "normalization": "site"},
    }
)
NO_MEMORY = Fault("memory", "allocation fails", "a worker's address space is limited to what it has while it trains in round 2",
                  "the site says that it ran out of memory, and answers again when it has some")  # fmt: skip


@parametrized([NO_MEMORY])
def test_a_worker_without_memory_says_so_and_answers_again(tmp_path: Path, rows: list[Fault], told: Told) -> None:
    process_of = multiprocessing.get_context("spawn")
    ours, theirs = process_of.Pipe(duplex=False)
    process = process_of.Process(target=thirsty_site.main, args=(tmp_path, PROTOCOL.canonical_json, theirs))
    process.start()
    theirs.close()
    answers = [ours.recv() for _ in range(3)]
    process.join(60)
    assert process.exitcode == 0
    assert answers == ["train_reply", FailureCode.OUT_OF_MEMORY, "train_reply"]
    told("said so in round 2, answered in round 3")
