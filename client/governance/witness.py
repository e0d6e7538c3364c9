"""What the worker writes into the audit log: what was asked, what was decided, what left. Hashes, sizes and codes only."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from client.governance.audit import AuditLog
from shared_model import messages
from shared_model.audit import Head
from shared_model.messages import Envelope, Failure, Message, Reply, Request

log = logging.getLogger(__name__)


class Witness:
    """Writes down one site's requests and answers in ``audit``."""

    def __init__(self, audit: AuditLog) -> None:
        self.audit = audit
        self._anchored: dict[str, Head] = {}

    def received(self, envelope: Envelope, request: Request | None) -> None:
        """Something was asked; ``request`` is None where it cannot be read."""
        about: dict[str, Any] = {"kind": "unreadable"} if request is None else _about(request)
        self.audit.note("request", about | _measures(envelope))
        if request is not None:
            self._anchor(request.task.heads)

    def sealed(self, message: Message[Reply], request: Request | None) -> Envelope:
        """``message`` as it may leave: it, and what was decided, are on the disk, and it carries the log's head."""
        plain = messages.encode(message)
        record = message.record
        about = {} if request is None else _about(request)
        refused = isinstance(record, Failure)
        decision = {"decision": "refused" if refused else "answered"}
        decision |= {"code": record.code.value} if isinstance(record, Failure) else {}
        release = {"kind": record.kind, **_measures(plain), **_said(record)}
        head = self.audit.append(
            ("decision", about | decision), ("release", {k: about[k] for k in _RUN if k in about} | release)
        )
        return messages.encode(replace(message, record=replace(record, head=head)))

    def _anchor(self, heads: tuple[Head, ...]) -> None:
        """Keep the heads of other sites' logs that are new, and look whether that of this one still fits."""
        for head in heads:
            if against := self.audit.contradicts(head):
                log.error("the audit log of %s does not fit what the center was told: %s", self.audit.site, against)
                self.audit.append(("broken", {"what": against, "heads": [head]}))
        new = [h for h in heads if h.site != self.audit.site and h.is_genuine and self._anchored.get(h.site) != h]
        if new:
            self.audit.note("anchor", {"heads": new})
            self._anchored |= {head.site: head for head in new}


_RUN = ("run", "round")


def _about(request: Request) -> dict[str, Any]:
    task = request.task
    protocol = hashlib.sha256(task.protocol_json.encode()).hexdigest()
    # Texts of the center's are cut short: a log is no place to write into.
    return {
        "asked": request.kind,
        "run": task.run[:64],
        "round": task.round,
        "attempt": task.attempt[:64],
        "protocol": protocol,
    }


def _measures(envelope: Envelope) -> dict[str, Any]:
    digest = hashlib.sha256(envelope.header)
    digest.update(envelope.payload)
    return {"bytes": envelope.size, "sha256": digest.hexdigest()}


def _said(record: Reply) -> Mapping[str, Any]:
    suppressed = getattr(record, "suppressed", ())
    privacy = getattr(record, "privacy", None)
    return {"suppressed": len(suppressed)} | ({"epsilon": privacy.epsilon} if privacy is not None else {})
