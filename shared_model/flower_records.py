"""An ``Envelope`` as Flower carries it, and back: one ConfigRecord for the header, one Array for the payload.

The payload travels as raw bytes under a serialisation name of our own, so that nothing parses it before ``messages`` does
and no NumPy header is copied in front of it. Used on both sides: by ``client/app.py`` and ``server/sites.py``.
"""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from shared_model.errors import MessageError
from shared_model.messages import HEADER_LIMIT, PAYLOAD_LIMIT, Envelope

ASK = "query.ask"  # Flower message type of a request to the worker
WHO = "query.who"  # Flower message type of the question which site a node is

_HEADER, _PAYLOAD, _SITE = "header", "payload", "site"


def pack(envelope: Envelope, *, payload: ArrayRecord | None = None) -> RecordDict:
    """The records of ``envelope``. ``payload`` is its payload if that is packed already: Flower pushes a record that
    several messages share only once."""
    records = RecordDict({_HEADER: ConfigRecord({_HEADER: envelope.header})})
    if envelope.payload:
        records[_PAYLOAD] = payload or pack_payload(envelope.payload)
    return records


def pack_payload(payload: bytes) -> ArrayRecord:
    """``payload`` as the one array of a record; the bytes are shared, not copied."""
    return ArrayRecord({_PAYLOAD: Array(dtype="uint8", shape=(len(payload),), stype="consilium.bytes", data=payload)})


def unpack(records: RecordDict) -> Envelope:
    """The envelope in ``records``.

    Raises:
        MessageError: they hold something else, or are over the size limits.
    """
    try:
        header = records.config_records[_HEADER][_HEADER]
        payload = records.array_records[_PAYLOAD][_PAYLOAD].data if _PAYLOAD in records else b""
    except KeyError as error:
        raise MessageError(f"not an envelope: no {error}") from None
    if not isinstance(header, bytes) or not isinstance(payload, bytes):
        raise MessageError("not an envelope: header and payload are bytes")
    if len(header) > HEADER_LIMIT or len(payload) > PAYLOAD_LIMIT:
        raise MessageError(f"message of {len(header) + len(payload)} bytes is over the limit")
    return Envelope(header, payload)


def pack_name(site: str) -> RecordDict:
    """The answer to ``WHO``."""
    return RecordDict({_SITE: ConfigRecord({_SITE: site})})


def unpack_name(records: RecordDict) -> str:
    """The site's name in an answer to ``WHO``.

    Raises:
        MessageError: there is none.
    """
    try:
        name = records.config_records[_SITE][_SITE]
    except KeyError:
        raise MessageError("the node did not say which site it is") from None
    if not isinstance(name, str):
        raise MessageError("the node did not say which site it is")
    return name
