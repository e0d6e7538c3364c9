"""``consilium-site predict``: what a study's model says of a patient, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_model.command_line import errors_to_exit_codes

if TYPE_CHECKING:
    from client.prediction.hospital import Hospital
    from shared_model.errors import ConfigurationError


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(predict)


def predict(
    model: Annotated[Path, typer.Option(metavar="MODEL.safetensors", help="models/best.safetensors of a run.")],
    site: Annotated[Path, typer.Option(metavar="SITE.toml", help="The hospital's configuration.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The card (.html); without --patient a table (.csv).")],
    patient: Annotated[str | None, typer.Option(metavar="ID", help="The patient, as the cohort table names it.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The worker's state, where a study leaves layers at each site (federation.personal)."),
    ] = None,
) -> None:
    """Say the risk of one patient on a page that can be printed: why, where, how sure, and what to check first.

    The patient's outcome need not be known. Without --patient, writes the risks of all labelled patients as a CSV. Nothing
    leaves this machine. Research use only.

    Example: consilium-site predict --model runs/demo/models/best.safetensors --site site.toml --patient AL0001 --out card.html
    """
    with errors_to_exit_codes():
        from client.site_config import read_site

        _check_out(out, patient)
        config = read_site(site)
        from client.prediction.hospital import Hospital

        hospital = Hospital.of(config, model, where=site, state=state)
        if patient is None:
            from client.prediction.table import as_csv

            _write(out, as_csv(hospital))
            typer.echo(f"{out}: risks of {len(hospital.cohort)} patients")
        else:
            _write_card(hospital, patient, site=site, out=out)
            typer.echo(f"card: {out}")


def _write_card(hospital: "Hospital", patient: str, *, site: Path, out: Path) -> None:
    from datetime import UTC, datetime

    from client.prediction.card import make_card
    from client.prediction.page import render
    from client.prediction.patient import read_patient

    own = read_patient(hospital.config, hospital.model, patient, where=site)
    _write(out, render(make_card(hospital, own), hospital.model, today=datetime.now(UTC).date()))


def _write(out: Path, text: str) -> None:
    from shared_model.durable import write_durably

    write_durably(out, text.encode("utf-8"))


def _check_out(out: Path, patient: str | None) -> None:
    wanted = ".csv" if patient is None else ".html"
    if out.suffix != wanted:
        remedy = "name a .csv, or name a patient" if patient is None else "name a .html"
        raise _fault("--out", str(out), f"a file that ends with {wanted}", remedy)
    if not out.parent.is_dir():
        raise _fault("--out", f"no folder {out.parent}", "an existing folder", "create it first")


def _fault(where: str, found: str, expected: str, remedy: str) -> "ConfigurationError":
    from shared_model.errors import ConfigurationError, Fault

    return ConfigurationError([Fault(where, "", found, expected, remedy)])
