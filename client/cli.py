"""``consilium-site``: what a hospital does with Consilium. Heavy libraries are imported only by the command that needs them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from client.cohort import Findings
    from client.cohort.pictures import Progress
    from client.site_config import SiteConfig
    from shared_model.protocol import StudyProtocol

_FILE_WIDTH = 120  # columns of a report that goes to a file or a pipe

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.callback()
def main() -> None:
    """A hospital's side of a federated study: patients stay here."""


@app.command()
def check(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The hospital's configuration.")],
    study: Annotated[Path | None, typer.Option(metavar="STUDY.toml", help="The study to check it against.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the report.")] = False,
) -> None:
    """Check the hospital's data: what would enter a study, what is left out and why.

    Without --study only the configuration, its paths, columns and labels are checked. Nothing leaves this machine.
    Exits with 0 if the site can take part, and with 2 if something must be mended first.

    Example: consilium-site check msk.toml --study study.toml
    """
    with _told_plainly(as_json):
        from client.cohort import load_cohort, survey

        config, protocol = _read(site, study)
        if protocol is None:
            findings = survey(config, where=site)
        else:
            with _progress() as on_progress:
                findings = load_cohort(config, protocol, where=site, on_progress=on_progress).findings
        _print(findings, config, protocol, as_json=as_json)


@app.command()
def worker(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The hospital's configuration.")],
    socket: Annotated[Path, typer.Option(help="Unix socket at which the relay to the center asks.")],
    state: Annotated[Path, typer.Option(help="Folder for what the site remembers of each run.")],
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
) -> None:
    """Run the resident process that owns the hospital's data and answers the center's requests, until it is stopped.

    Example: consilium-site worker msk.toml --socket /run/consilium/msk.sock --state /var/lib/consilium
    """
    with _told_plainly(as_json=False):
        from client.serving import serve_site

        serve_site(site, socket=socket, state=state, threads=threads)


@app.command()
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder that gets HOSPITAL/ and truth/.")],
    hospital: Annotated[str, typer.Option(help="alder, birch, cedar, hazel, or maple (DICOM and REDCap).")],
    patients: Annotated[int, typer.Option(help="How many.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same hospital.")] = 0,
    scanner: Annotated[str | None, typer.Option(help="vesta_12, orion_9, lyra_15 or delphin_8; the hospital's own.")] = None,
) -> None:
    """Write the export of an invented hospital, with its site.toml, as a real one would export.

    Prints the path of its site.toml, and on standard error how well anyone could do on these patients: the AUC of their true
    risks, and of the best score that sees no pictures.

    Example: consilium-site synthesize --out hospitals --hospital alder --patients 200 --seed 1
    """
    with _told_plainly(as_json=False):
        from client.synthetic import describe_truth
        from client.synthetic import synthesize as write

        typer.echo(write(out, hospital=hospital, patients=patients, seed=seed, scanner=scanner))
        typer.echo(describe_truth(out, hospital), err=True)


def _read(site: Path, study: Path | None) -> "tuple[SiteConfig, StudyProtocol | None]":
    """Both files, or the faults of both."""
    from client.site_config import read_site
    from shared_model.errors import ConfigurationError, Fault
    from shared_model.protocol import read_protocol

    faults: list[Fault] = []
    config = protocol = None
    try:
        config = read_site(site)
    except ConfigurationError as error:
        faults += error.faults
    try:
        protocol = read_protocol(study) if study else None
    except ConfigurationError as error:
        faults += error.faults
    if faults or config is None:
        raise ConfigurationError(faults)
    return config, protocol


def _print(findings: "Findings", config: "SiteConfig", protocol: "StudyProtocol | None", *, as_json: bool) -> None:
    from rich.console import Console

    from client.cohort.report import print_report

    if as_json:
        typer.echo(json.dumps({"ok": True, "site": config.site.name, **asdict(findings)}, indent=2))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _FILE_WIDTH
        print_report(console, findings, protocol, site=config.site.name)


@contextmanager
def _told_plainly(as_json: bool) -> Iterator[None]:
    """Errors raised on purpose become a message and an exit code: 2 for what the user can mend, 1 for the rest."""
    from shared_model.errors import CohortError, ConfigurationError, ConsiliumError

    try:
        yield
    except (ConfigurationError, CohortError) as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "problems": [asdict(fault) for fault in error.faults]}, indent=2))
        else:
            typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except ConsiliumError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                tasks[doing] = bars.add_task(doing)
            bars.update(tasks[doing], completed=done, total=total)

        yield on_progress
