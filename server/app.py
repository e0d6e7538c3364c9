"""Flower ServerApp: opens the run that the center has prepared, and hands over to ``study``."""

import json
import os
import traceback
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.app_files import AT_WORK, CONDUCTING
from server.disk import disk_trouble
from server.nodes import registered_nodes
from server.sites import Roster
from server.study import conduct
from shared_model.errors import ConfigurationError, ConsiliumError
from shared_model.leash import die_with_parent
from shared_model.locking import alone

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the study in ``run-directory``. How it ended is written to ``outcome`` (a path; "": nowhere), for
    the process that waits for it. ``nodes`` (a path; "": whoever says so) tells which node is which site."""
    # Without Flower's executor this process ends now, not when Flower notices.
    die_with_parent(os.getppid())
    run_directory = Path(str(context.run_config["run-directory"]))
    outcome, nodes = str(context.run_config["outcome"]), str(context.run_config["nodes"])
    registered = partial(registered_nodes, Path(nodes)) if nodes else None
    try:
        # Two processes must not write one journal, whoever submits a study twice.
        with alone(run_directory / CONDUCTING, otherwise="this study is being run already"):
            at_work = {"run": str(context.run_id), "pid": os.getpid()}
            (run_directory / AT_WORK).write_text(json.dumps(at_work), encoding="utf-8")
            conduct(Roster(grid, registered=registered), run_directory)
    except Exception as error:
        told = str(error) if isinstance(error, ConsiliumError) else disk_trouble(error, at=run_directory)
        _report(outcome, told or traceback.format_exc(), final=isinstance(error, ConfigurationError))
        raise
    _report(outcome, None, final=True)


def _report(outcome: str, error: str | None, *, final: bool) -> None:
    """``final`` errors stay whatever is tried again."""
    if outcome:
        partial_file = Path(f"{outcome}.partial")
        partial_file.write_text(json.dumps({"error": error, "final": final}), encoding="utf-8")
        partial_file.replace(outcome)
