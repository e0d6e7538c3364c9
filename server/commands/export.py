"""``consilium-center export``: a run for MLflow or TensorBoard."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from shared_model.command_line import errors_to_exit_codes


class Tracker(StrEnum):
    """Where a run can be exported to."""

    mlflow = "mlflow"
    tensorboard = "tensorboard"


def register(app: typer.Typer) -> None:
    """Add ``export`` to the center's commands."""
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(help="A run directory with results.json.")],
    to: Annotated[Tracker, typer.Option("--to", help="The tracker.")],
    out: Annotated[Path, typer.Option(help="The folder of the tracker's store or event files.")] = Path("tracking"),
) -> None:
    """Write a run's rounds, results and protocol into a local MLflow store or TensorBoard event files.

    Needs the extra: pip install 'consilium[trackers]'. Nothing is sent anywhere.

    Example: consilium-center export runs/heart --to mlflow --out tracking
    """
    with errors_to_exit_codes():
        from server import trackers
        from server.report.compare import read_results

        document = read_results(run)
        written = trackers.to_mlflow(document, run, out) if to is Tracker.mlflow else trackers.to_tensorboard(document, out)
        typer.echo(written)
