"""``consilium-site`` commands that connect a hospital to a center."""

from pathlib import Path
from typing import Annotated

import typer

from shared_model.command_line import errors_to_exit_codes

HomeFolder = Annotated[Path | None, typer.Option(help="Folder of this site's keys; $CONSILIUM_HOME, or ~/.consilium/NAME.")]
KitFile = Annotated[Path, typer.Argument(metavar="KIT", help="What the center sent back.")]
Bundle = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Further authorities to trust, for a proxy that inspects TLS.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (enrol, join, doctor):
        app.command()(command)


def enrol(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The hospital's configuration.")],
    out: Annotated[Path | None, typer.Option(metavar="REQUEST", help="The file to send; NAME.request.json.")] = None,
    home: HomeFolder = None,
    renew: Annotated[bool, typer.Option("--renew", help="Replace the key of a site that is enrolled.")] = False,
) -> None:
    """Make this hospital's keys, which stay here, and the request that the center approves.

    Send REQUEST to the center by any way, and compare the code by telephone: nothing in the file is secret. Given again, it
    writes the same keys' request again.

    Example: consilium-site enrol site.toml --home /var/lib/consilium --out birch.request.json
    """
    with errors_to_exit_codes():
        from client.enrolment import Home, default_home
        from client.enrolment import enrol as make_keys
        from client.site_config import read_site
        from shared_model.certificates import spoken
        from shared_model.durable import write_durably
        from shared_model.enrolment import write_json

        config = read_site(site)
        name = config.site.name
        folder = Home(home or default_home(name))
        request = make_keys(folder, site=name, title=config.site.title, renew=renew)
        path = out or Path(f"{name}.request.json")
        write_durably(path, write_json(request))
        typer.echo(f"site {name}: keys in {folder.folder}; they stay here, and belong in your backup")
        typer.echo(f"code of this request, for the center to compare: {spoken(request.code)}")
        again = f" --home {home}" if home else ""
        typer.echo(
            f"next: send {path} to the center; it sends back a kit. Then: consilium-site join KIT --worker SOCKET{again}"
        )


def join(
    kit: KitFile,
    worker: Annotated[Path, typer.Option(metavar="SOCKET", help="Where consilium-site worker answers.")],
    home: HomeFolder = None,
    expect: Annotated[
        str | None,
        typer.Option(metavar="FINGERPRINT", help="Refuse any other center; as told by telephone, 16 digits or more."),
    ] = None,
    ca_bundle: Bundle = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Without TLS and node authentication; loopback only.")] = False,
) -> None:
    """Connect this hospital to the center until stopped. Outbound only, to the one address and port in KIT; HTTPS_PROXY is
    used if set. What dies is started again; a center that is away is waited for.

    Example: consilium-site join birch.kit.json --worker /run/consilium/birch.sock --expect "0123 4567 89ab cdef"
    """
    with errors_to_exit_codes():
        import logging
        import signal
        from threading import Event

        from client import joining
        from client.enrolment import Home, default_home
        from shared_model.enrolment import read_kit

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        stop = Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        folder = Home(home or default_home(read_kit(kit).site))
        prepared, done = joining.prepare(folder, kit, worker=worker, expect=expect, ca_bundle=ca_bundle, insecure=insecure)
        for line in done:
            typer.echo(line)
        joining.join(prepared, stop=stop, tell=typer.echo)
        typer.echo("stopped")


def doctor(
    kit: KitFile,
    site: Annotated[Path | None, typer.Option(metavar="SITE.toml", help="The hospital's configuration.")] = None,
    worker: Annotated[Path | None, typer.Option(metavar="SOCKET", help="Where consilium-site worker answers.")] = None,
    home: HomeFolder = None,
    ca_bundle: Bundle = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Test the way from this hospital's worker to the center: keys, proxy, name, port, TLS, certificate, clock, acceptance,
    worker, code, disk, GPU; for each what is wrong and how to mend it.

    Exits with 0 if nothing failed (warnings are allowed), and with 2 otherwise.

    Example: consilium-site doctor birch.kit.json --site site.toml --worker /run/consilium/birch.sock
    """
    with errors_to_exit_codes():
        import json
        from dataclasses import asdict

        from client import joining
        from client.doctor import doctor_checks
        from client.enrolment import Home, accept_kit, default_home
        from client.site_config import read_site
        from shared_model.enrolment import read_kit
        from shared_model.locking import is_held

        name = read_site(site).site.name if site else None
        folder = Home(home or default_home(read_kit(kit).site))
        at_work = is_held(folder.folder / joining.LOCK)
        accepted, done = accept_kit(folder, kit, keep_authorities=at_work and ca_bundle is None)
        if ca_bundle is not None:
            joining.add_authorities(folder, accepted, ca_bundle)
        checks = list(doctor_checks(folder, accepted, site=name, worker=worker))
        ok = all(check.status != "fail" for check in checks)
        if as_json:
            typer.echo(json.dumps({"ok": ok, "site": accepted.site, "checks": [asdict(check) for check in checks]}, indent=2))
        else:
            for line in done:
                typer.echo(line)
            for check in checks:
                typer.echo(f"{check.status:<5} {check.title}: {check.found}")
                for problem in check.problems:
                    typer.echo(f"      - {problem.what}\n        -> {problem.remedy}")
            typer.echo("This site can join." if ok else "Mend what failed, then give this command again.")
    if not ok:
        raise typer.Exit(2)
