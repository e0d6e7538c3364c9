"""Identifiers and names replaced by salted hashes, in everything that a site writes.

The salt is a secret of the site, created on first use and readable by this user only; without it nobody can try names until
one fits.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.cohort.cache import cache_home
from client.cohort.findings import Findings, ImageFindings, VariableFinding

_BYTES = 32
_SHOWN = 12


@dataclass(frozen=True)
class Pseudonyms:
    """Replaces texts by keyed hashes (HMAC-SHA-256): equal texts give equal pseudonyms, at this site only."""

    secret: bytes = field(repr=False)

    def of(self, text: str) -> str:
        """The pseudonym of ``text``, 12 hexadecimal digits."""
        return hmac.new(self.secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:_SHOWN]


def site_pseudonyms(site: str) -> Pseudonyms:
    """Those of ``site``, by the secret kept in ``cache_home()``; by one for this process alone where nothing can be kept."""
    path = cache_home() / "secrets" / f"{site}.key"
    try:
        return Pseudonyms(_kept(path))
    except OSError:
        return Pseudonyms(secrets.token_bytes(_BYTES))


def unkeyed(identifier: str) -> str:
    """A hash of a patient's ``identifier`` that is the same whatever secrets are lost; to be held in memory, never written.

    What is written of it is hashed again with a key that lies in the same file: who counts as the same patient there depends on
    that file alone, and on no cache.
    """
    return hashlib.sha256(identifier.encode("utf-8", "surrogateescape")).hexdigest()


def concealed(findings: Findings, pseudonyms: Pseudonyms) -> Findings:
    """``findings`` to be written down: names of files, and cells that no code explains, as pseudonyms. Counts stay, and so do
    labels that are ignored, for their codes stand in ``label.ignore``."""
    return replace(
        findings,
        unlisted_parts=_keys_concealed(findings.unlisted_parts, pseudonyms),
        variables={name: _of_variable(variable, pseudonyms) for name, variable in findings.variables.items()},
        images=None if findings.images is None else _of_images(findings.images, pseudonyms),
    )


def _of_variable(variable: VariableFinding, pseudonyms: Pseudonyms) -> VariableFinding:
    return replace(
        variable,
        no_number=_keys_concealed(variable.no_number, pseudonyms),
        unmapped=_keys_concealed(variable.unmapped, pseudonyms),
    )


def _of_images(images: ImageFindings, pseudonyms: Pseudonyms) -> ImageFindings:
    files = tuple(replace(file, file=f"file {pseudonyms.of(file.file)}" if file.file else "") for file in images.unusable)
    return replace(images, unusable=files, unmapped_views=_keys_concealed(images.unmapped_views, pseudonyms))


def _keys_concealed(counts: Mapping[str, int], pseudonyms: Pseudonyms) -> dict[str, int]:
    return {pseudonyms.of(text) if text else "": count for text, count in counts.items()}


def _kept(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        content = path.read_bytes()
        if len(content) == _BYTES:
            return content
        path.unlink()  # half written by a process that was killed
        return _kept(path)
    with os.fdopen(descriptor, "wb") as file:
        secret = secrets.token_bytes(_BYTES)
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    return secret
