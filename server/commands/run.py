"""``consilium-center run``: a study with real hospitals."""

from pathlib import Path
from typing import Annotated

import typer

from shared_model.command_line import INTERRUPTED, errors_to_exit_codes


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(run)


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study protocol.")],
    federation: Annotated[Path, typer.Option(metavar="FEDERATION", help="The folder of the center that is up.")],
    sites: Annotated[str, typer.Option(metavar="NAME,NAME...", help="The hospitals that take part.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run directory; given again, it resumes.")],
    seed: Annotated[int, typer.Option(min=0, help="Every random draw follows from it.")] = 0,
    relaunches: Annotated[int, typer.Option(min=0, help="Launches in a row without a further round, before it gives up.")] = 5,
) -> None:
    """Run a study with the hospitals of a federation; the same command resumes, or says that it is finished.

    The center must be up (consilium-center up). Ctrl-C or SIGTERM stops the run; what was finished is kept. Exits with 0 only
    if the study is finished.

    Example: consilium-center run study.toml --federation federation --sites birch,alder,cedar --out runs/first
    """
    with errors_to_exit_codes():
        import signal
        from threading import Event

        from rich.console import Console

        from server import deployment
        from server.cli import summarize
        from server.commands.provision import warn
        from server.provisioning import Federation

        console = Console()
        names = [name.strip() for name in sites.split(",") if name.strip()]
        folder = Federation(federation)
        prepared = deployment.prepare(study, folder, names, out=out, seed=seed, relaunches=relaunches)
        warn(folder)
        stop = Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        try:
            record = deployment.deploy(prepared, stop=stop, console=console)
        except deployment.Interrupted:
            typer.echo(f"stopped; what was finished is in {out}, and the same command goes on from there", err=True)
            raise SystemExit(INTERRUPTED) from None
        summarize(record, out, console)
        typer.echo("finished")
