"""``consilium-site budget``: what studies have cost the hospital's patients, what is left, and what is planned."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_model.command_line import errors_to_exit_codes

if TYPE_CHECKING:
    from client.governance.statement import Statement

Site = Annotated[Path, typer.Option(metavar="SITE.toml", help="The hospital's configuration.")]
State = Annotated[Path, typer.Option(envvar="CONSILIUM_STATE", help="Folder that the worker is given as --state.")]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(budget)


def budget(
    site: Site, state: State, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
) -> None:
    """Show the privacy budget of this hospital's patients: spent, left, by study, and what running studies plan.

    Example: consilium-site budget --site site.toml --state /var/lib/consilium
    """
    with errors_to_exit_codes():
        from client.governance.statement import state_budget
        from client.site_config import read_site

        config = read_site(site)
        statement = state_budget(state, site=config.site.name, policy=config.policy)
        if as_json:
            typer.echo(json.dumps(asdict(statement), indent=2))
        else:
            _print(statement)


def _print(statement: "Statement") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(
        f"Epsilon {statement.spent:.3f} of {statement.limit:g} is spent, {statement.left:.3f} is left, at delta "
        f"{statement.delta:g}, for the training patient who took part in most ({statement.accountant.upper()} accountant)."
    )
    console.print(f"Ledger: {statement.ledger}", soft_wrap=True)
    if not statement.runs:
        console.print("No study has trained here with differential privacy.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("study", "run", "rounds", "failed", "epsilon", "planned", "noise", "last round"):
        table.add_column(heading, justify="left" if heading in {"study", "run", "last round"} else "right")
    for run in statement.runs:
        rounds = f"{run.rounds_charged} of {run.rounds_planned}"
        numbers = (f"{run.epsilon:.3f}", f"{run.planned:.3f}", f"{run.noise_multiplier:.3g}")
        table.add_row(run.study, run.run, rounds, str(run.rounds_failed), *numbers, run.last or "not begun")
    console.print(table)
    console.print("Costs of several runs together are less than their sum; a round that would exceed the limit is refused.")
