"""A worker that does what the header of a request says."""

import os
import signal
import tomllib

from shared_model.messages import Envelope


class Worker:
    def __init__(self, name, state, threads):
        self.name = name
        self.facts = f"{state} {threads}"
        self.served = 0

    def handle(self, envelope):
        self.served += 1
        if envelope.header == b"raise":
            raise ValueError("patient 12345 has no label")
        if envelope.header == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Envelope(f"{self.name} {self.served} {self.facts}".encode(), envelope.payload)


def open_site(config_path, *, state, threads=None):
    return Worker(tomllib.loads(config_path.read_text())["site"]["name"], state, threads)
