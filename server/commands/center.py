"""``consilium-center up``: the processes that hospitals connect to."""

from pathlib import Path
from typing import Annotated

import typer

from shared_model.command_line import errors_to_exit_codes


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(up)


def up(
    federation: Annotated[Path, typer.Argument(metavar="FEDERATION", help="A folder that provision made.")],
    insecure: Annotated[bool, typer.Option("--insecure", help="Without TLS and node authentication; loopback only.")] = False,
) -> None:
    """Run the center until it is stopped (Ctrl-C, SIGTERM): hospitals connect, and studies can be run.

    What dies is started again. A run survives a restart of SuperLink; after a restart of this command, give
    consilium-center run again: it goes on from the last finished round.

    Example: consilium-center up federation
    """
    with errors_to_exit_codes():
        import logging
        import signal
        from threading import Event

        from server.center import run_center
        from server.commands.provision import warn
        from server.provisioning import Federation

        folder = Federation(federation)
        folder.settings  # noqa: B018  is it one?
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        warn(folder)
        stop = Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        run_center(folder, insecure=insecure, stop=stop, on_ready=typer.echo)
        typer.echo("stopped")
