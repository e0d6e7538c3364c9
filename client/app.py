"""Flower ClientApp: a thin relay. It hands each request to the site's worker and sends back what that answers.

Flower starts a new process for each message, and that process has a network. So it imports neither torch nor the cohort,
sees no patients, and lets no text of an error out: Flower would send the text of an exception to the center.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client import residents, serving
from client.residents import Resident
from shared_model import messages
from shared_model.crashpoints import crashpoint
from shared_model.errors import FailureCode, MessageError
from shared_model.flower_records import ASK, WHO, pack, pack_name, unpack
from shared_model.messages import Envelope, Failure

NAME_TIMEOUT_S = 20.0

log = logging.getLogger(__name__)
app = ClientApp()


@app.query(WHO.removeprefix("query."))
def who(message: Message, context: Context) -> Message:
    """Tell the center which site this node is: the name in the worker's own site.toml."""
    try:
        answer = pack_name(_resident(context, timeout_s=NAME_TIMEOUT_S).name)
    except Exception as error:
        answer = pack(_failure(Envelope(b""), error, seconds=0.0))
    return Message(answer, reply_to=message)


@app.query(ASK.removeprefix("query."))
def ask(message: Message, context: Context) -> Message:
    """Relay a request. The worker may take as long as the request is valid: the deadline is the center's."""
    started = perf_counter()
    request = Envelope(b"")
    try:
        request = unpack(message.content)
        crashpoint("relay.received")
        reply = _resident(context, timeout_s=message.metadata.ttl).handle(request)
        crashpoint("relay.answered")
    except Exception as error:
        reply = _failure(request, error, seconds=perf_counter() - started)
    return Message(pack(reply), reply_to=message)


def _resident(context: Context, *, timeout_s: float) -> Resident:
    """The worker of this node. Where the node's own configuration names one, the center has no say in it."""
    node: Mapping[str, object] = context.node_config
    if "worker" in node:
        return serving.RemoteWorker(Path(str(node["worker"])), timeout_s=timeout_s)
    if "resident" in node:
        return residents.find(str(node["resident"]))
    return residents.of_partition(int(str(node["partition-id"])), plan=Path(str(context.run_config["sites"])))


def _failure(request: Envelope, error: Exception, *, seconds: float) -> Envelope:
    log.error("the request was not answered", exc_info=error)
    code = FailureCode.UNREACHABLE if isinstance(error, ConnectionError) else FailureCode.INTERNAL
    site, attempt = _addressee(request)
    return messages.encode(messages.Message(Failure(site=site, attempt=attempt, code=code, seconds=seconds)))


def _addressee(request: Envelope) -> tuple[str, str]:
    """Site and attempt that a request names; a reply must repeat them to be attributed."""
    try:
        record = messages.decode(request).record
    except MessageError:
        return "", ""
    return (record.task.site, record.task.attempt) if isinstance(record, messages.Request) else ("", "")
