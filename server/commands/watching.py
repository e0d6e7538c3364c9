"""``consilium-center watch`` and ``dashboard``: what a run is doing, on the terminal and as a live web page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_model.command_line import errors_to_exit_codes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from server.dashboard.view import RunView


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(watch)
    app.command()(dashboard)


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    once: Annotated[bool, typer.Option("--once", help="Show how it stands and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print how it stands as one JSON document and end.")] = False,
) -> None:
    """Watch a run: sites and what they are doing, rounds, scores, failures, time left. Ends when nobody works in the run.

    Example: consilium-center watch runs/heart
    """
    with errors_to_exit_codes():
        import json
        from dataclasses import asdict
        from time import sleep

        from rich.console import Console
        from rich.live import Live

        from server.dashboard.view import look

        if as_json:
            typer.echo(json.dumps(asdict(look(run)), indent=2))
            return
        view, console = look(run), Console()
        if once or not console.is_terminal or view.status != "running":
            console.print(_drawn(view))
            return
        with Live(_drawn(view), console=console, screen=False) as display:
            while view.status == "running":
                sleep(0.5)
                view = look(run)
                display.update(_drawn(view))


def dashboard(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="A folder of run directories.")],
    studies: Annotated[Path | None, typer.Option(help="Folder of studies that may be started here, one folder each.")] = None,
    federation: Annotated[
        Path | None, typer.Option(help="Run them at the hospitals enrolled here, instead of simulating.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; other than loopback only with a certificate.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8750,
    name: Annotated[list[str] | None, typer.Option(help="A further name by which browsers call this machine.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM chain, for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM key of the certificate.")] = None,
    new_password: Annotated[bool, typer.Option("--new-password", help="Ask for another password first.")] = False,
) -> None:
    """A live web page of all runs in a folder: watch, start, stop and resume them, with a login.

    The first start asks for a password, or takes it from CONSILIUM_DASHBOARD_PASSWORD; its hash stays in RUNS/.dashboard.json.

    Example: consilium-center dashboard runs --studies site_configs
    """
    with errors_to_exit_codes():
        import os

        import uvicorn

        from server.dashboard.control import Control
        from server.dashboard.doors import Doors, set_password
        from server.dashboard.web import make_app
        from shared_model.errors import ConfigurationError, Fault

        secure = certificate is not None and key is not None
        if host not in {"127.0.0.1", "::1", "localhost"} and not secure:
            expected = "loopback, or --certificate and --key"
            remedy = "use an SSH tunnel, or give a certificate: a password must not cross a network in the clear"
            raise ConfigurationError([Fault("--host", "", host, expected, remedy)])
        runs.mkdir(parents=True, exist_ok=True)
        file = runs / ".dashboard.json"
        if new_password or not file.exists():
            given = os.environ.get("CONSILIUM_DASHBOARD_PASSWORD")
            set_password(file, given or typer.prompt("Password for the page", hide_input=True, confirmation_prompt=True))
        hosts = ["127.0.0.1", "localhost", "[::1]", host, *(name or [])]
        page = make_app(Control(runs, studies, federation), Doors(file), hosts=hosts, secure=secure)
        typer.echo(f"{'https' if secure else 'http'}://{host}:{port}/")
        uvicorn.run(
            page, host=host, port=port, log_level="warning", ws="none", server_header=False, timeout_graceful_shutdown=1,
            ssl_certfile=certificate, ssl_keyfile=key,
        )  # fmt: skip


def _drawn(view: "RunView") -> "RenderableType":
    from rich.console import Group
    from rich.markup import escape
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from server.dashboard.web import span

    colours = {"working": "blue", "answered": "green", "failed": "red", "away": "red", "idle": "dim"}
    table = Table(expand=False)
    for heading in ("site", "state", "patients", "rounds", "last round", "AUC, tuning", "trouble"):
        table.add_column(heading, justify="left" if heading in {"site", "state", "trouble"} else "right")
    for site in view.sites:
        slow = " slow" if site.name in view.slow else ""
        table.add_row(
            site.name,
            f"[{colours[site.state]}]{site.state}[/]",
            "–" if site.patients is None else str(site.patients),
            str(site.rounds),
            span(site.seconds) + slow,
            "–" if site.tune_auc is None else f"{site.tune_auc:.3f}",
            escape(f"{site.trouble}: {site.last_trouble}") if site.trouble else "",
        )
    score = (
        f", model of round {view.curve[-1][0]}: {view.metric.replace('_', ' ')} {view.curve[-1][1]:.3f}" if view.curve else ""
    )
    left = f", about {span(view.seconds_left)} left" if view.seconds_left else ""
    head = Text(f"{view.name}: {view.status} ({view.phase}), round {view.round} of {view.rounds}{score}{left}", style="bold")
    lines = [Text(f"{at}  {text}", style="dim") for at, text in view.timeline[:8]]
    return Group(head, ProgressBar(total=view.rounds, completed=view.round, width=60), table, *lines)
