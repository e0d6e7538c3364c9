"""``consilium-site``: what a hospital does with Consilium. Heavy libraries are imported only by the command that needs them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands import budget, failures, federation, governance, predict
from shared_model.command_line import errors_to_exit_codes

if TYPE_CHECKING:
    from rich.progress import TaskID

    from client.cohort.parallel import Progress
    from client.preflight import Preflight
    from client.site_config import SiteConfig
    from shared_model.errors import ConfigurationError
    from shared_model.protocol import StudyProtocol

_FILE_WIDTH = 120  # columns of a report that goes to a file or a pipe

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)
governance.register(app)
budget.register(app)


@app.callback()
def main() -> None:
    """A hospital's side of a federated study: patients stay here."""


@app.command()
def check(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The hospital's configuration.")],
    study: Annotated[Path | None, typer.Option(metavar="STUDY.toml", help="The study to check it against.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the report.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="Also write a page with contact sheets.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also look for leakage in columns that are not mapped.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Do not measure how long training takes.")] = False,
) -> None:
    """Check the hospital's data and machine: what would enter a study, what is left out and why, what must be mended.

    Without --study only what needs no study is checked. Nothing leaves this machine; the page holds patients' pictures.
    Exits with 0 if no check failed (warnings are allowed), and with 2 if something must be mended first.

    Example: consilium-site check msk.toml --study study.toml --html check.html
    """
    with errors_to_exit_codes(as_json=as_json):
        from client.preflight import concealing, preflight, refused
        from shared_model.errors import CohortError, ConfigurationError

        if html is not None and not html.parent.is_dir():
            raise _no_folder(html)
        try:
            config, protocol = _read(site, study)
            with _progress() as on_progress:
                result = preflight(config, protocol, where=site, deep=deep, fast=fast, on_progress=on_progress)
        except (ConfigurationError, CohortError) as error:
            if html is not None:
                _write_page(html, refused(error.faults, site=site.stem, study=study.stem if study else None), None)
            raise
        # What is written down names neither files nor cells; what is shown to a person must, to be mended.
        if html is not None:
            _write_page(html, concealing(result, config, protocol), protocol)
        _print(concealing(result, config, protocol) if as_json else result, protocol, as_json=as_json)
    if not result.ok:
        raise typer.Exit(2)


@app.command()
def init(
    exports: Annotated[list[Path], typer.Argument(metavar="EXPORT...", help="Tables, or folders of tables and pictures.")],
    out: Annotated[Path, typer.Option(metavar="SITE.toml", help="The configuration to write.")],
    study: Annotated[Path | None, typer.Option(metavar="STUDY.toml", help="The study whose variables to look for.")] = None,
    name: Annotated[str | None, typer.Option(help="The hospital's name in reports.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write a first SITE.toml from an export: guessed mappings, each with its evidence, and what was not found.

    Example: consilium-site init export/ --study study.toml --out site.toml --name msk
    """
    with errors_to_exit_codes():
        from client.init import initialise

        drafted = initialise(exports, out=out, study=study, name=name, force=force)
        typer.echo(f"{drafted.path}: {len(drafted.found)} of {len(drafted.found) + len(drafted.absent)} variables found")
        if drafted.absent:
            typer.echo(f"not found: {', '.join(drafted.absent)}")
        if not drafted.has_label:
            typer.echo("no column was recognised as the outcome: name it in label")
        typer.echo(f"guesses that you have to decide, marked CHECK in the file: {drafted.to_check}")
        for remark in drafted.remarks:
            typer.echo(f"note: {remark}")
        typer.echo(f"next: read it, then consilium-site check {drafted.path}" + (f" --study {study}" if study else ""))


@app.command()
def worker(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The hospital's configuration.")],
    socket: Annotated[Path, typer.Option(help="Unix socket at which the relay to the center asks.")],
    state: Annotated[Path, typer.Option(help="Folder for what the site remembers of each run.")],
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    allow_uid: Annotated[
        list[int] | None, typer.Option(metavar="UID", help="Another user whose relay may ask; can be given more than once.")
    ] = None,
) -> None:
    """Run the resident process that owns the hospital's data and answers the center's requests, until it is stopped.

    Example: consilium-site worker msk.toml --socket /run/consilium/msk.sock --state /var/lib/consilium
    """
    with errors_to_exit_codes():
        import logging

        from client.serving import serve_site

        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("client").setLevel(logging.INFO)
        serve_site(site, socket=socket, state=state, threads=threads, allowed=allow_uid or ())


@app.command()
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder that gets HOSPITAL/ and truth/.")],
    hospital: Annotated[str, typer.Option(help="maple (DICOM, REDCap), birch, cedar or hazel; alder is maple as plain csv.")],
    patients: Annotated[int, typer.Option(help="How many.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same hospital.")] = 0,
    scanner: Annotated[str | None, typer.Option(help="vesta_12, orion_9, lyra_15 or delphin_8; the hospital's own.")] = None,
) -> None:
    """Write the export of an invented hospital, with its site.toml, as a real one would export.

    Prints the path of its site.toml, and on standard error how well anyone could do on these patients: the AUC of their true
    risks, and of the best score that sees no pictures.

    Example: consilium-site synthesize --out hospitals --hospital alder --patients 200 --seed 1
    """
    with errors_to_exit_codes():
        from client.synthetic import describe_truth
        from client.synthetic import synthesize as write

        typer.echo(write(out, hospital=hospital, patients=patients, seed=seed, scanner=scanner))
        typer.echo(describe_truth(out, hospital), err=True)


for topic in (federation, predict, failures):
    topic.register(app)


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


def _no_folder(page: Path) -> "ConfigurationError":
    from shared_model.errors import ConfigurationError, Fault

    return ConfigurationError([Fault("--html", "", f"no folder {page.parent}", "an existing folder", "create it first")])


def _write_page(path: Path, result: "Preflight", protocol: "StudyProtocol | None") -> None:
    from client.preflight.page import render

    path.write_text(render(result, protocol), encoding="utf-8")


def _print(result: "Preflight", protocol: "StudyProtocol | None", *, as_json: bool) -> None:
    from rich.console import Console

    from client.preflight.text import print_report

    if as_json:
        findings = asdict(result.findings) if result.findings else {}
        checks = [asdict(check) for check in result.checks]
        typer.echo(json.dumps({"ok": result.ok, "site": result.site, **findings, "checks": checks}, indent=2))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _FILE_WIDTH
        print_report(console, result, protocol)


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
