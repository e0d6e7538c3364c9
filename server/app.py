"""Flower ServerApp: opens the run that the center has prepared, and hands over to ``study``."""

import json
import os
import traceback
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.sites import Roster
from server.study import conduct
from shared_model.errors import ConsiliumError
from shared_model.leash import die_with_parent

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the study in ``run-directory``. How it ended is written to ``outcome`` (a path; "": nowhere), for
    the process that waits for it."""
    # Two processes must not write one journal: without Flower's executor this one ends now, not when Flower notices.
    die_with_parent(os.getppid())
    outcome = str(context.run_config["outcome"])
    try:
        conduct(Roster(grid), Path(str(context.run_config["run-directory"])))
    except Exception as error:
        _report(outcome, str(error) if isinstance(error, ConsiliumError) else traceback.format_exc())
        raise
    _report(outcome, None)


def _report(outcome: str, error: str | None) -> None:
    if outcome:
        partial = Path(f"{outcome}.partial")
        partial.write_text(json.dumps({"error": error}), encoding="utf-8")
        partial.replace(outcome)
