"""``consilium-center`` commands about certificates and enrolment."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_model.command_line import USER_ERROR, errors_to_exit_codes

if TYPE_CHECKING:
    from server.provisioning import Federation

Folder = Annotated[Path, typer.Argument(metavar="FEDERATION", help="A folder that provision made.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (provision, rotate, certificates):
        app.command()(command)
    app.command("approve-site")(approve_site)
    app.command("revoke-site")(revoke_site)
    app.command("sites")(list_sites)


def provision(
    out: Annotated[Path, typer.Option(metavar="FEDERATION", help="The folder to make, or to bring up to date.")],
    host: Annotated[
        str, typer.Option(metavar="NAME[,IP...]", help="Names and addresses of the center; hospitals use the first.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the federation; that of the folder.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The only port that hospitals reach.")] = 443,
    bind: Annotated[str, typer.Option(help="Address of this machine to listen at.")] = "0.0.0.0",
) -> None:
    """Make the center's certificate authority and server certificate, and the folder of a federation.

    Given again, it keeps the authority, and makes a new server certificate if names changed. Back up FEDERATION/ca and keep it
    to yourself: whoever has it can pose as the center.

    Example: consilium-center provision --out federation --host fed.example.org,203.0.113.7
    """
    with errors_to_exit_codes():
        from server import provisioning

        hosts = [part.strip() for part in host.split(",") if part.strip()]
        federation, done = provisioning.provision(out, hosts=hosts, name=name, port=port, bind=bind)
        for line in done:
            typer.echo(line)
        warn(federation)
        typer.echo(f"next: consilium-center up {out}; and for each hospital: consilium-center approve-site {out} REQUEST")


def approve_site(
    federation: Folder,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="What consilium-site enrol wrote at the hospital.")],
) -> None:
    """Enrol the hospital that made REQUEST, or its new key, and write the kit that it joins with.

    Compare the code that this prints with the one that the hospital sees, by telephone. Works while the center is up or down,
    and twice.

    Example: consilium-center approve-site federation birch.request.json
    """
    with errors_to_exit_codes():
        from server import provisioning
        from shared_model.certificates import fingerprint, spoken

        folder = provisioning.Federation(federation)
        asked, kit = provisioning.approve(folder, request)
        typer.echo(f"site {asked.site} is enrolled; its code: {spoken(asked.code)}")
        typer.echo(f"fingerprint of this center, for the hospital to compare: {spoken(fingerprint(folder.authority))}")
        warn(folder)
        typer.echo(f"next: send {kit} to the hospital; nothing in it is secret")
        typer.echo(_registered(folder, asked.site))


def revoke_site(federation: Folder, site: Annotated[str, typer.Argument(metavar="NAME", help="The hospital's name.")]) -> None:
    """Accept no key of a hospital any more. Runs go on without it.

    Example: consilium-center revoke-site federation birch
    """
    with errors_to_exit_codes():
        from server import provisioning

        folder = provisioning.Federation(federation)
        provisioning.revoke(folder, site)
        warn(folder)
        typer.echo(f"site {site} is revoked; {_registered(folder, site)}")


def rotate(federation: Folder) -> None:
    """Make a new key and certificate of the center's public port. A running center takes it up; hospitals notice nothing.

    Example: consilium-center rotate federation
    """
    with errors_to_exit_codes():
        from server import provisioning

        folder = provisioning.Federation(federation)
        typer.echo(str(provisioning.rotate(folder)))
        warn(folder)


def certificates(
    federation: Folder, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
) -> None:
    """Tell how long the certificates hold; for cron: exits with 2 if one has expired or will within 30 days.

    Example: consilium-center certificates federation
    """
    with errors_to_exit_codes():
        from server import provisioning

        folder = provisioning.Federation(federation)
        folder.settings  # noqa: B018  is it one?
        held = folder.validities
        if as_json:
            rows = [
                {"what": one.what, "until": one.until.isoformat(), "days": one.left().days, "ending": one.ending}
                for one in held
            ]
            typer.echo(json.dumps({"ok": not folder.warnings, "certificates": rows}, indent=2))
        else:
            for one in held:
                typer.echo(str(one))
            warn(folder)
        if folder.warnings:
            raise SystemExit(USER_ERROR)


def list_sites(
    federation: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    roster: Annotated[bool, typer.Option("--roster", help="Print roster.toml: who signs for which hospital.")] = False,
) -> None:
    """List the hospitals, and whether their keys are accepted. With --roster, the file with which hospitals know each other in
    secure sums; each compares it with the others, not with the center.

    Example: consilium-center sites federation
    """
    with errors_to_exit_codes():
        import tomli_w

        from server import provisioning
        from shared_model.certificates import spoken
        from shared_model.enrolment import key_sha256

        folder = provisioning.Federation(federation)
        folder.settings  # noqa: B018  is it one?
        rows = [
            {
                "site": site.site,
                "title": site.title,
                "status": "revoked" if site.revoked else "enrolled",
                "identity": key_sha256(site.identity_key),
                "keys": [{"sha256": key.sha256, "status": key.status, "since": key.since} for key in site.node_keys],
            }
            for site in folder.sites().values()
        ]
        if as_json:
            typer.echo(json.dumps({"sites": rows}, indent=2))
            return
        if roster:
            keys = {site.site: site.identity_key for site in folder.sites().values() if not site.revoked}
            typer.echo(tomli_w.dumps({"sites": keys}), nl=False)
            return
        for row in rows:
            typer.echo(f"{row['site']:<20} {row['status']:<9} identity {spoken(str(row['identity']))}  {row['title']}".rstrip())
        warn(folder)


def warn(federation: "Federation") -> None:
    """Say on standard error which certificates end soon."""
    for warning in federation.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _registered(federation: "Federation", site: str) -> str:
    """What became of a change at a center that is up, in words."""
    from server.registration import await_registration

    return await_registration(federation, site)
