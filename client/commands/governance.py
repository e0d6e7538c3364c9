"""``consilium-site`` commands with which a hospital keeps hold: approve, revoke, approvals, audit."""

import getpass
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_model.command_line import errors_to_exit_codes

if TYPE_CHECKING:
    from client.governance.approval import Approval, Approvals
    from client.governance.audit import AuditLog
    from client.site_config import SiteConfig
    from shared_model.audit import Head
    from shared_model.protocol import StudyProtocol

Study = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The protocol, as the center sent it.")]
Site = Annotated[Path, typer.Option(metavar="SITE.toml", help="The hospital's configuration.")]
State = Annotated[Path, typer.Option(envvar="CONSILIUM_STATE", help="Folder that the worker is given as --state.")]
By = Annotated[str | None, typer.Option(help="Name of who decides; the user of this computer.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; needs --by.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (approve, revoke, approvals):
        app.command()(command)
    audit = typer.Typer(no_args_is_help=True, help="The record of what was asked, decided and released.")
    audit.command("verify")(verify)
    audit.command("export")(export)
    app.add_typer(audit, name="audit")


def approve(study: Study, site: Site, state: State, by: By = None, yes: Yes = False) -> None:
    """Show in plain words what a study would do here and what would leave the hospital, and approve it.

    Without an approval the worker refuses every request, whatever the center sends.

    Example: consilium-site approve study.toml --site site.toml --state /var/lib/consilium
    """
    with errors_to_exit_codes():
        from client.governance.plan import in_words, obstacles

        config, protocol = _read(site, study)
        kept = _approvals(state, config)
        for heading, sentences in in_words(protocol, config):
            typer.echo(f"{heading}\n" + "".join(f"  {sentence}\n" for sentence in sentences))
        if against := obstacles(protocol, config):
            typer.echo(f"Against it stands {site}\n" + "".join(f"  {sentence}\n" for sentence in against))
        if standing := kept.standing(protocol.sha256):
            typer.echo(f"It is approved already: by {standing.by}, {standing.at}.")
            return
        if not _agreed(f"Approve {protocol.study.name} for {config.site.name}?", yes=yes, by=by):
            typer.echo("not approved")
            raise typer.Exit(1)
        made = kept.approve(protocol, policy=config.policy, by=by or getpass.getuser())
        _log(state, config).append(("approval", made.for_audit))
        typer.echo(f"approved by {made.by}, {made.at}; taken back with: consilium-site revoke {made.protocol_sha256[:12]}")


def revoke(
    named: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study, or the first digits of its SHA-256.")],
    site: Site,
    state: State,
    by: By = None,
) -> None:
    """Take an approval back. From then on the worker refuses the study, also in the middle of a run.

    Example: consilium-site revoke llnm --site site.toml --state /var/lib/consilium
    """
    with errors_to_exit_codes():
        from client.site_config import read_site
        from shared_model.errors import ConfigurationError, Fault

        config = read_site(site)
        kept = _approvals(state, config)
        revoked = kept.revoke(named, by=by or getpass.getuser())
        if not revoked:
            standing = sorted({f"{a.study} {a.protocol_sha256[:12]}" for a in kept.all() if a.revoked_at is None})
            expected = ", ".join(standing) or "nothing is approved here"
            raise ConfigurationError([Fault("STUDY", "", named, expected, "consilium-site approvals lists them")])
        for approval in revoked:
            _log(state, config).append(("revocation", approval.for_audit))
            typer.echo(f"revoked {approval.study} {approval.protocol_sha256[:12]}, approved by {approval.by}, {approval.at}")


def approvals(
    site: Site, state: State, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
) -> None:
    """List what was approved at this hospital, by whom and when, and what was revoked.

    Example: consilium-site approvals --site site.toml --state /var/lib/consilium
    """
    with errors_to_exit_codes():
        from client.site_config import read_site

        held = _approvals(state, read_site(site)).all()
        if as_json:
            typer.echo(json.dumps([asdict(approval) for approval in held], indent=2))
            return
        if not held:
            typer.echo("nothing is approved: consilium-site approve STUDY.toml")
        for approval in held:
            typer.echo(_line(approval))


def verify(
    site: Site,
    state: State,
    heads: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Heads that others hold: heads.json of a center's run, another site's exported log."),
    ] = None,
) -> None:
    """Check that no record of this site's audit log was edited, deleted, moved or cut off; exits with 1 if one was.

    The log alone shows all but its end cut off together with its signed head: for that, give what others hold with --heads.

    Example: consilium-site audit verify --site site.toml --state /var/lib/consilium --heads heads.json
    """
    with errors_to_exit_codes():
        from client.governance import audit
        from client.site_config import read_site
        from client.state import lasting

        name = read_site(site).site.name
        held = [head for file in heads or [] for head in _anchors(file) if head.site == name]
        records, findings = audit.verify(lasting(state, name), site=name, anchors=held)
        for finding in findings:
            typer.echo(f"record {finding.record}: {finding.what}" if finding.record else finding.what)
        if findings:
            typer.echo(
                f"{records} records, {len(findings)} of these things wrong: keep the files as they are, and tell the center"
            )
            raise typer.Exit(1)
        vouched = f", and fits {len(held)} heads that others hold" if held else ""
        typer.echo(f"{records} records, an unbroken chain{vouched}")


def export(
    site: Site,
    state: State,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to; standard output.")] = None,
    syslog: Annotated[bool, typer.Option("--syslog", help="Lines of RFC 5424 instead of JSON lines.")] = False,
) -> None:
    """Write the audit log out, for an archive or a log collector. It names no patient.

    Example: consilium-site audit export --site site.toml --state /var/lib/consilium --syslog --out consilium.log
    """
    with errors_to_exit_codes():
        import socket

        from client.governance import audit
        from client.site_config import read_site
        from client.state import lasting
        from shared_model.durable import write_durably

        name = read_site(site).site.name
        entries = audit.read(lasting(state, name))
        plain = (json.dumps(entry, sort_keys=True, separators=(",", ":")) for entry in entries)
        lines = audit.syslog_lines(entries, host=socket.gethostname()) if syslog else plain
        text = "".join(f"{line}\n" for line in lines)
        if out is None:
            typer.echo(text, nl=False)
        else:
            write_durably(out, text.encode())


def _anchors(file: Path) -> "list[Head]":
    from client.governance.audit import anchors_in
    from shared_model.errors import ConfigurationError, Fault

    try:
        return anchors_in(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected = "heads.json of a center's run, or an audit log as exported"
        raise ConfigurationError([Fault(str(file), "", type(error).__name__, expected, "ask the center for it")]) from None


def _log(state: Path, config: "SiteConfig") -> "AuditLog":
    from client.governance.audit import AuditLog
    from client.state import lasting

    return AuditLog(lasting(state, config.site.name), site=config.site.name)


def _line(approval: "Approval") -> str:
    epsilon = "without differential privacy" if approval.epsilon is None else f"epsilon {approval.epsilon:g}"
    given = "automatically by" if approval.automatic else "by"
    line = f"{approval.study} {approval.protocol_sha256[:12]}: {approval.rounds} rounds, {epsilon}; "
    line += f"approved {given} {approval.by}, {approval.at}"
    return line + (f"; revoked by {approval.revoked_by}, {approval.revoked_at}" if approval.revoked_at else "")


def _agreed(question: str, *, yes: bool, by: str | None) -> bool:
    from shared_model.errors import ConfigurationError, Fault

    if not yes:
        try:
            return typer.confirm(question)
        except typer.Abort:
            if sys.stdin.isatty():
                raise
            remedy = 'give this command at a terminal; or, once somebody has decided, with --yes --by "Name, office"'
            raise ConfigurationError([Fault("--yes", "", "nobody to ask", "an answer", remedy)]) from None
    if not by:
        raise ConfigurationError([Fault("--by", "", "no name", "who approves", 'with --yes give --by "Name, office"')])
    return True


def _approvals(state: Path, config: "SiteConfig") -> "Approvals":
    from client.governance.approval import Approvals
    from client.state import lasting

    return Approvals(lasting(state, config.site.name))


def _read(site: Path, study: Path) -> "tuple[SiteConfig, StudyProtocol]":
    """Both files, or the faults of both."""
    from client.site_config import read_site
    from shared_model.errors import ConfigurationError, Fault
    from shared_model.protocol import read_protocol

    faults: list[Fault] = []
    try:
        config = read_site(site)
    except ConfigurationError as error:
        faults += error.faults
    try:
        protocol = read_protocol(study)
    except ConfigurationError as error:
        faults += error.faults
    if faults:
        raise ConfigurationError(faults)
    return config, protocol
