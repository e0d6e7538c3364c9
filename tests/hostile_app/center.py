"""The center's half: sends every node a list of what to try, and writes down what came back."""

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """``plan`` (a path) holds what to try; ``out`` (a path) gets a reply by node."""
    plan, out = (Path(str(context.run_config[key])) for key in ("plan", "out"))
    order = RecordDict({"plan": ConfigRecord({"plan": plan.read_text()})})
    sent = [*grid.push_messages([Message(order, node, "query.who") for node in grid.get_node_ids()])]
    replies: dict[str, str] = {}
    deadline = time.monotonic() + 90
    while len(replies) < len(sent) and time.monotonic() < deadline:
        for reply in grid.pull_messages(sent):
            told = str(reply.error) if reply.has_error() else str(reply.content.config_records["booty"]["booty"])
            replies.setdefault(reply.metadata.reply_to_message_id, told)  # pulled again, it is gone
        time.sleep(0.5)
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps([*replies.values()]))
    partial.rename(out)
