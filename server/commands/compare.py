"""``consilium-center compare``: runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from shared_model.command_line import errors_to_exit_codes


def register(app: typer.Typer) -> None:
    """Add ``compare`` to the center's commands."""
    app.command()(compare)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run directories; the others are compared with the first.")],
    out: Annotated[Path, typer.Option(help="The folder for compare.html and compare.csv.")] = Path("comparison"),
) -> None:
    """Put runs side by side: AUC, calibration and net benefit at every site, and what differs between their protocols.

    Runs of different outcomes are refused. Where two runs tested the same patients, the page says so, as far as their
    results tell.

    Example: consilium-center compare runs/heart runs/heart_fedprox --out comparison
    """
    with errors_to_exit_codes():
        from server.report.compare import read_runs, write

        page = write(out, read_runs(runs))
        typer.echo(f"comparison: {page}")
