"""A run's folder that turns read-only in the middle of a study."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from server.disk import disk_trouble
from shared_model.messages import Envelope, Request, TrainRequest
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.scene import Scene
from tests.faults.stage import SITES, study_file

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

READ_ONLY = Fault("disk", "run's folder read-only", "the run's folder turns read-only in round 2 (all in one process)",
                  "ends with what to do, keeps what was committed; started again, it goes on")  # fmt: skip


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be made in ``folder``, not even by root."""
    if subprocess.run(["chattr", "+i", folder], capture_output=True, check=False).returncode:
        pytest.skip("no folder can be made read-only for root here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


@parametrized([READ_ONLY])
def test_a_folder_that_turns_read_only_costs_no_round(tmp_path: Path, rows: list[Fault], told: Told) -> None:
    scene = Scene.of(tmp_path, study_file(tmp_path, rounds=3, deadline_s=30))
    with ExitStack() as harm:

        def turn(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
            if isinstance(request, TrainRequest) and request.task.round == 2 and site == SITES[-1]:
                harm.enter_context(read_only(scene.out / "models"))
            return [(0.0, reply)]

        with pytest.raises(PermissionError) as raised:
            scene.run(meddle=turn)
    told_so = disk_trouble(raised.value, at=scene.out)
    assert told_so is not None
    assert "nothing can be written to" in told_so
    assert scene.resume() == [SITES] * 3
    assert scene.violations() == []
    told("said so; started again, all sites counted in all rounds; the same bits")
