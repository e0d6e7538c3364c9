"""A study that asks the sites what ``script.json`` in its run directory says, and writes down the answers."""

import hashlib
import json
import time

from shared_model import messages
from shared_model.errors import MessageError, StudyError
from shared_model.messages import Envelope

PAYLOAD = bytes(range(256)) * 20_000  # 5 MB


def conduct(roster, run_directory):
    script = json.loads((run_directory / "script.json").read_text())
    if "error" in script:
        raise StudyError(script["error"])
    results = {"connected": roster.connect(script["sites"], timeout_s=60.0), "asks": []}
    (run_directory / "started").touch()
    time.sleep(script.get("sleep_s", 0.0))
    for headers in script["asks"]:
        requests = {site: Envelope(header.encode(), PAYLOAD) for site, header in headers.items()}
        results["asks"].append({answer.site: told(answer) for answer in roster.ask(requests, deadline_s=60.0)})
    (run_directory / "answers.json").write_text(json.dumps(results))


def told(answer):
    if answer.envelope is None:
        return {"code": answer.code}
    try:
        return {"code": messages.decode(answer.envelope).record.code, "size": answer.envelope.size}
    except MessageError:
        digest = hashlib.sha256(answer.envelope.payload).hexdigest()
        return {"header": answer.envelope.header.decode(), "sha256": digest}
