"""A site in a process of its own that answers one private training request, for tests that kill it."""

import os
from pathlib import Path

from client.site_config import Policy
from shared_model.crashpoints import VARIABLE, crashpoint
from shared_model.durable import write_durably
from shared_model.messages import Envelope
from tests.sites import worker


def main(state: Path, request: Path, reply: Path, crash_at: str) -> None:
    """Answer the request in the folder ``request``, and write the reply's bytes to ``reply``."""
    os.environ[VARIABLE] = crash_at
    site = worker("north", state, policy=Policy(minimum_cell=1, delta=1e-4))
    header, payload = (request / "header").read_bytes(), (request / "payload").read_bytes()
    answered = site.handle(Envelope(header, payload))
    crashpoint("site.answered")
    write_durably(reply, answered.header + b"\0" + answered.payload)
