"""Who may use the web page: one password, sessions that end, forms that only the page itself can send."""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, Fault

SESSION_S = 8 * 3600.0
TRIES = 5
PAUSE_S = 30.0
SHORTEST = 12
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}


@dataclass
class Session:
    """Somebody who has logged in. ``form`` is a word that each form of the page carries."""

    ends: float
    form: str = field(default_factory=lambda: secrets.token_urlsafe(24))


class Doors:
    """Logins against the password whose hash is in ``file``; sessions end with this process, or after ``SESSION_S``."""

    def __init__(self, file: Path) -> None:
        document = json.loads(file.read_text(encoding="utf-8"))
        self._salt, self._hash = bytes.fromhex(document["salt"]), bytes.fromhex(document["hash"])
        self._sessions: dict[str, Session] = {}
        self._wrong: list[float] = []

    @property
    def closed(self) -> bool:
        """Whether too many wrong passwords came lately, from wherever."""
        self._wrong = [at for at in self._wrong if monotonic() < at + PAUSE_S]
        return len(self._wrong) >= TRIES

    def login(self, password: str) -> str | None:
        """The token of a new session, or None if the password is wrong or the doors are closed."""
        if self.closed:
            return None
        if not hmac.compare_digest(_hashed(password, self._salt), self._hash):
            self._wrong.append(monotonic())
            return None
        token = secrets.token_urlsafe(32)
        self._sessions[token] = Session(monotonic() + SESSION_S)
        return token

    def session(self, token: str | None) -> Session | None:
        """The session of ``token``, if it has not ended."""
        session = self._sessions.get(token or "")
        if session is not None and monotonic() > session.ends:
            del self._sessions[str(token)]
            return None
        return session

    def logout(self, token: str | None) -> None:
        """End a session."""
        self._sessions.pop(token or "", None)


def set_password(file: Path, password: str) -> None:
    """Keep the hash of ``password`` in ``file``, for its owner's eyes.

    Raises:
        ConfigurationError: it is too short.
    """
    if len(password) < SHORTEST:
        found = f"{len(password)} letters"
        raise ConfigurationError([Fault("password", "", found, f"{SHORTEST} or more", "choose a longer one")])
    salt = secrets.token_bytes(16)
    before = os.umask(0o077)
    try:
        write_durably(file, json.dumps({"salt": salt.hex(), "hash": _hashed(password, salt).hex()}).encode())
    finally:
        os.umask(before)


def _hashed(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, dklen=32, **_SCRYPT)
