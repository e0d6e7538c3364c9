"""kill -9 of the process that conducts the study, at every point of its code that a crash could fall between."""

import pytest

from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import ROUNDS, SITES, Stage, study_file

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

FIRST, SECOND = 0, 1  # armed before the run, or once its first round is committed
POINTS = {
    "study.described": (FIRST, "a site has described itself"),
    "sites.asked": (SECOND, "the sites have been asked for a round"),
    "round.counted": (SECOND, "the first reply counts, others are on their way"),
    "round.aggregated": (SECOND, "the step is made, nothing is written"),
    "durable.partial": (SECOND, "the checkpoint is written, not renamed"),
    "journal.checkpointed": (SECOND, "the checkpoint is there, its row is not"),
    "journal.committed": (SECOND, "the round is committed, nobody was told"),
    "study.evaluated": (FIRST, "one site has evaluated"),
    "study.exported": (FIRST, "the model is exported, the run not marked as finished"),
    "study.finished": (FIRST, "the run is finished, the launcher was not told"),
}
FAULTS = tuple(
    Fault(
        "center", f"ServerApp dies: {point}", f"kill -9 when {when}", "launched again by itself, from the last committed round"
    )
    for point, (_, when) in POINTS.items()
)


@parametrized(FAULTS)
def test_a_conductor_that_dies_is_followed_by_another(stage: Stage, fault: Fault, told: Told, tmp_path) -> None:
    point = fault.name.split(": ")[1]
    study = study_file(tmp_path)
    stage.approve(study)
    if POINTS[point][0] == FIRST:
        stage.arm("center", point)
    run = stage.start_run(study)
    if POINTS[point][0] == SECOND:
        run.await_round(1)
        stage.arm("center", point)
    stage.await_reached("center", point)
    run.finish()
    assert run.log.count("launching again") == (0 if point == "study.finished" else 1), run.told()
    assert run.participants() == [SITES] * ROUNDS, run.failures()
    told.holds(run.violations())
    told(f"{run.log.count('launching again')} relaunch, {ROUNDS} rounds of {len(SITES)} sites")
