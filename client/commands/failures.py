"""``consilium-site failures``: whom a model judged worst, at the site and for the site only."""

from pathlib import Path
from typing import Annotated

import typer

from shared_model.command_line import errors_to_exit_codes


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(failures)


def failures(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The hospital's configuration.")],
    study: Annotated[Path, typer.Option(metavar="STUDY.toml", help="The study.")],
    state: Annotated[Path, typer.Option(envvar="CONSILIUM_STATE", help="Folder that the worker is given as --state.")],
    run: Annotated[str, typer.Option(help="Identifier of the run; the only one of the folder if left out.")] = "",
    model: Annotated[int, typer.Option(help="The model after so many rounds; the last evaluated if left out.")] = -1,
    count: Annotated[int, typer.Option(min=1, help="How many patients.")] = 20,
) -> None:
    """List the test patients whom the model judged worst, with their identifiers: for the hospital's own eyes.

    The list is written to failures-NNNN.csv beside the scores that the worker kept, readable by its owner only.

    Example: consilium-site failures site.toml --study study.toml --state /var/lib/consilium/state
    """
    with errors_to_exit_codes():
        from client.cohort import load_cohort
        from client.failures import as_csv, evaluated_models, worst
        from client.site_config import read_site
        from shared_model.durable import write_durably
        from shared_model.errors import ConfigurationError, Fault
        from shared_model.protocol import read_protocol

        config, protocol = read_site(site), read_protocol(study)
        folders = {folder.parent.name: folder for folder in state.glob(f"*/{config.site.name}") if evaluated_models(folder)}
        if run not in folders and (run or len(folders) != 1):
            found = ", ".join(sorted(folders)) or "no run that evaluated a model"
            raise ConfigurationError([Fault(str(state), "--run", found, "one of the runs of this folder", "give --run")])
        directory = folders[run] if run else next(iter(folders.values()))
        models = evaluated_models(directory)
        chosen = models[-1] if model < 0 else model
        if chosen not in models:
            raise ConfigurationError(
                [Fault(str(directory), "--model", str(chosen), f"one of {models}", "give --model, or leave it out")]
            )
        listed = worst(load_cohort(config, protocol, where=site), protocol, directory, model=chosen, count=count)
        path = directory / f"failures-{chosen:04d}.csv"
        write_durably(path, as_csv(listed, protocol).encode(), mode=0o600)
        for failure in listed:
            lacks = f"  lacks {', '.join(failure.lacks)}" if failure.lacks else ""
            outcome = "with" if failure.outcome else "without"
            typer.echo(f"{failure.patient:20}  {outcome:7} the outcome  predicted {failure.predicted:.2f}{lacks}")
        typer.echo(f"{len(listed)} test patients of the model after {chosen} rounds: {path} (stays here)")
