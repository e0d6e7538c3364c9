"""Requests and replies: typed records <-> bytes. Nothing here unpickles, and every size is checked before it is used.

On the wire a message is an ``Envelope`` of two byte strings: ``header``, the JSON of a record, and ``payload``, its
vectors as little-endian float32, one after the other, or, of a secure sum, masked numbers as little-endian uint64. Flower's
cost is per object, so a model is one vector.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from shared_model.audit import Head
from shared_model.disclosure import Suppression
from shared_model.errors import FailureCode, MessageError
from shared_model.explanations import ExplanationSummary
from shared_model.masking import Words
from shared_model.paired import PairedComparison
from shared_model.privacy_spent import PrivacySpent
from shared_model.readings import Reading
from shared_model.secure_records import (
    Advertisement,
    Digest,
    MaskedShares,
    MaskingSession,
    ReleasedShares,
    Sealed,
    Signature,
    SiteName,
)
from shared_model.summaries import CategoryCounts, CohortFlow, Moments, Normalization, PartCounts, Performance, Record

Vector = NDArray[np.float32]  # [D]
Part = Literal["train", "tune", "test"]
PARTS_IN_WORDS: Mapping[Part, str] = {"train": "training", "tune": "tuning", "test": "test"}  # patients of each
Count = Annotated[int, Field(ge=0, le=10_000_000)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seconds = Annotated[float, Field(ge=0.0)]

HEADER_LIMIT = 8 * 2**20
PAYLOAD_LIMIT = 4 * 2**30


@dataclass(frozen=True)
class Envelope:
    """A message as it travels."""

    header: bytes
    payload: bytes = b""

    @property
    def size(self) -> int:
        """Bytes on the wire, without the transport's own."""
        return len(self.header) + len(self.payload)


@dataclass(frozen=True)
class Task(Record):
    """What every request states. ``attempt`` marks one sending of it; a reply must repeat it to count. ``heads`` are the
    newest heads of the sites' audit logs that the center knows, for each site to keep."""

    run: str
    site: str
    round: Annotated[int, Field(ge=0)]
    attempt: str
    protocol_json: str
    seed: int
    heads: tuple[Head, ...] = ()


@dataclass(frozen=True)
class DescribeRequest(Record):
    """Tell the cohort's counts and moments."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    task: Task
    kind: Literal["describe"] = "describe"


@dataclass(frozen=True)
class TrainRequest(Record):
    """Score the model ``weights`` on tuning patients, then train it. ``control`` is SCAFFOLD's server control variate.

    ``layout`` is the SHA-256 of names and shapes of the model's parameters, as the center has them.
    ``basis`` is the last round in which this site's reply counted (0: none): its own state is the one after that round.
    Of its earlier states only those after the rounds ``keep`` can be asked for again.
    With ``masking`` the reply is summed under masks with those of the other sites named there.
    """

    VECTORS: ClassVar[frozenset[str]] = frozenset({"weights", "control"})
    task: Task
    layout: str
    normalization: Normalization | None
    basis: Annotated[int, Field(ge=0)]
    keep: tuple[Annotated[int, Field(ge=0)], ...] = ()
    masking: MaskingSession | None = None
    kind: Literal["train"] = "train"


@dataclass(frozen=True)
class EvaluateRequest(Record):
    """Score the model ``weights`` of ``layout`` on the patients of ``parts``; ``masking`` as in ``TrainRequest``."""

    VECTORS: ClassVar[frozenset[str]] = frozenset({"weights"})
    task: Task
    layout: str
    normalization: Normalization | None
    basis: Annotated[int, Field(ge=0)]
    parts: tuple[Part, ...]
    masking: MaskingSession | None = None
    kind: Literal["evaluate"] = "evaluate"


@dataclass(frozen=True)
class KeysRequest(Record):
    """Advertise keys for a secure sum."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    task: Task
    kind: Literal["keys"] = "keys"


@dataclass(frozen=True)
class ConfirmRequest(Record):
    """Sign that the numbers of just ``survivors`` count in the secure sum ``session``; asked where a site went away."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    task: Task
    session: Digest
    survivors: tuple[SiteName, ...]
    kind: Literal["confirm"] = "confirm"


@dataclass(frozen=True)
class UnmaskRequest(Record):
    """Release shares of what did not cancel in the secure sum of ``survivors``. ``sealed`` holds the letters of the other
    survivors to this site, ``confirmations`` the signatures of survivors where a site went away."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    task: Task
    session: Digest
    survivors: tuple[SiteName, ...]
    sealed: dict[SiteName, Sealed]
    confirmations: dict[SiteName, Signature]
    kind: Literal["unmask"] = "unmask"


@dataclass(frozen=True)
class ScoredModel(Record):
    """A model whose scores of its test patients a site keeps: that after round ``model`` of ``run``, or, if ``own``, the site's
    own one of that time (Ditto)."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,160}$")]
    model: Annotated[int, Field(ge=0)]
    own: bool = False


@dataclass(frozen=True)
class CompareRequest(Record):
    """Compare models by the scores that the site keeps. Each has a name, and is one scored model, or one for each fold of a
    cross-validation; ``first`` names the one with which the others, and the protocol's comparators, are compared."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    task: Task
    first: ModelName
    models: dict[ModelName, tuple[ScoredModel, ...]]
    kind: Literal["compare"] = "compare"


@dataclass(frozen=True)
class ExplainRequest(Record):
    """Explain the model ``weights`` of ``layout`` as the protocol says; ``brief``: shares and contributions only."""

    VECTORS: ClassVar[frozenset[str]] = frozenset({"weights"})
    task: Task
    layout: str
    normalization: Normalization | None
    basis: Annotated[int, Field(ge=0)]
    brief: bool = False
    kind: Literal["explain"] = "explain"


@dataclass(frozen=True)
class DescribeReply(Record):
    """A site's cohort. ``moments`` and ``categories`` are of the patients of part ``of``, by variable; ``missing`` counts
    patients of all parts without a value; ``modalities`` counts patients with anything of a modality. A count of ``None``, and
    moments and categories of nobody, may have been ``suppressed``."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    site: str
    attempt: str
    flow: CohortFlow
    parts: dict[Part, PartCounts]
    moments: dict[str, Moments]
    categories: dict[str, CategoryCounts]
    missing: dict[str, Count | None]
    modalities: dict[str, Count | None]
    seconds: Seconds
    of: Part = "train"
    suppressed: tuple[Suppression, ...] = ()
    keys: Advertisement | None = None
    head: Head | None = None
    kind: Literal["describe_reply"] = "describe_reply"


@dataclass(frozen=True)
class TrainReply(Record):
    """Vectors: ``update``, trained minus received parameters ``[D]``; ``control``, change of the site's control variate.

    ``patients`` trained on, ``loss`` their mean training loss; ``tune`` the received model on tuning patients, ``None``
    without any. Loss and ``tune`` are also ``None`` where they are ``suppressed``. In a secure sum vectors, loss and what
    adds up of ``tune`` are masked, and ``masks`` goes with them. ``privacy`` is what the site states of the run's cost,
    ``None`` without differential privacy.
    """

    VECTORS: ClassVar[frozenset[str]] = frozenset({"update", "control"})
    site: str
    attempt: str
    patients: Count
    steps: Count
    loss: float | None
    tune: Performance | None
    seconds: Seconds
    privacy: PrivacySpent | None = None
    suppressed: tuple[Suppression, ...] = ()
    masks: MaskedShares | None = None
    head: Head | None = None
    kind: Literal["train_reply"] = "train_reply"


@dataclass(frozen=True)
class EvaluateReply(Record):
    """Performance on each part that has labelled patients and is not ``suppressed``. ``personal`` is of the site's own model
    (Ditto)."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    site: str
    attempt: str
    parts: dict[Part, Performance]
    personal: dict[Part, Performance]
    seconds: Seconds
    suppressed: tuple[Suppression, ...] = ()
    masks: MaskedShares | None = None
    head: Head | None = None
    kind: Literal["evaluate_reply"] = "evaluate_reply"


@dataclass(frozen=True)
class CompareReply(Record):
    """``performances`` of each model on its test patients (of all folds together), ``comparisons`` of the first with each of
    the others, and ``readings`` of the first beside each comparator. Models of other test patients are not compared."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    site: str
    attempt: str
    performances: dict[str, Performance]
    comparisons: dict[str, PairedComparison]
    readings: dict[str, Reading]
    seconds: Seconds
    suppressed: tuple[Suppression, ...] = ()
    head: Head | None = None
    kind: Literal["compare_reply"] = "compare_reply"


@dataclass(frozen=True)
class KeysReply(Record):
    """Keys for the next secure sum; those advertised before are void."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    site: str
    attempt: str
    keys: Advertisement
    seconds: Seconds
    head: Head | None = None
    kind: Literal["keys_reply"] = "keys_reply"


@dataclass(frozen=True)
class ConfirmReply(Record):
    """The site's signature of the survivors that it was asked about."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    site: str
    attempt: str
    signature: Signature
    seconds: Seconds
    head: Head | None = None
    kind: Literal["confirm_reply"] = "confirm_reply"


@dataclass(frozen=True)
class UnmaskReply(Record):
    """The site's shares of what did not cancel."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    site: str
    attempt: str
    shares: ReleasedShares
    seconds: Seconds
    head: Head | None = None
    kind: Literal["unmask_reply"] = "unmask_reply"


@dataclass(frozen=True)
class Failure(Record):
    """A site could not or would not: a neutral code, never a text of its own."""

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    site: str
    attempt: str
    code: FailureCode
    seconds: Seconds
    head: Head | None = None
    kind: Literal["failure"] = "failure"


@dataclass(frozen=True)
class ExplainReply(Record):
    """Sums of explanations over groups of patients; cells that may not leave the site are ``suppressed``.

    ``private``: it is with noise.
    """

    VECTORS: ClassVar[frozenset[str]] = frozenset()
    site: str
    attempt: str
    summary: ExplanationSummary
    seconds: Seconds
    private: bool = False
    suppressed: tuple[Suppression, ...] = ()
    head: Head | None = None
    kind: Literal["explain_reply"] = "explain_reply"


SecureSumRequest = KeysRequest | ConfirmRequest | UnmaskRequest
PatientRequest = DescribeRequest | TrainRequest | EvaluateRequest | CompareRequest | ExplainRequest
Request = PatientRequest | SecureSumRequest
SecureSumReply = KeysReply | ConfirmReply | UnmaskReply
Reply = DescribeReply | TrainReply | EvaluateReply | CompareReply | ExplainReply | SecureSumReply | Failure
AnyRecord = Request | Reply


R_co = TypeVar("R_co", bound=AnyRecord, covariant=True)


@dataclass(frozen=True)
class Message(Generic[R_co]):
    """A record and its vectors, each float32 ``[D]``; or, of a secure sum, ``masked`` numbers ``[W]`` instead of vectors."""

    record: R_co
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    masked: Words | None = None


def encode(message: Message[AnyRecord]) -> Envelope:
    """Bytes of a message.

    Raises:
        MessageError: a vector is not float32 ``[D]``, or not one that the record may carry; likewise masked numbers.
    """
    if message.masked is None:
        return encode_all({"": message.record}, message.vectors)[""]
    words = message.masked
    if message.record.kind not in _MASKABLE or message.vectors or words.dtype != np.uint64 or words.ndim != 1:
        raise MessageError(f"{message.record.kind} cannot carry masked numbers of {words.dtype} {words.shape}")
    return Envelope(_header(message.record, [[_MASKED, int(words.size)]]), words.astype("<u8", copy=False).tobytes())


def encode_all(records: Mapping[str, AnyRecord], vectors: Mapping[str, Vector]) -> dict[str, Envelope]:
    """Bytes of several records with the same vectors, which are laid out once and shared.

    Raises:
        MessageError: a vector is not float32 ``[D]``, or not one that a record may carry.
    """
    for name, vector in vectors.items():
        for record in records.values():
            if name not in record.VECTORS or vector.dtype != np.float32 or vector.ndim != 1:
                raise MessageError(f"{record.kind} cannot carry {name!r} of {vector.dtype} {vector.shape}")
    lengths: list[list[str | int]] = [[name, int(vector.size)] for name, vector in vectors.items()]
    payload = b"".join(vector.astype("<f4", copy=False).tobytes() for vector in vectors.values())
    return {key: Envelope(_header(record, lengths), payload) for key, record in records.items()}


def decode(envelope: Envelope) -> Message[AnyRecord]:
    """The message in ``envelope``. Vectors are read-only views of its bytes, and may hold NaN: admission checks values.

    Raises:
        MessageError: over a limit, no JSON, unknown or missing keys, numbers that are not finite, lengths that do not fit.
    """
    if len(envelope.header) > HEADER_LIMIT or len(envelope.payload) > PAYLOAD_LIMIT:
        raise MessageError(f"message of {envelope.size} bytes is over the limit")
    try:
        document = json.loads(envelope.header)
        lengths, body = _LENGTHS.validate_python(document["vectors"]), json.dumps(document["record"])
        record = _adapter().validate_json(body)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MessageError(f"not a message: {_brief(error)}") from None
    if lengths and lengths[0][0] == _MASKED:
        return _decode_masked(record, lengths, envelope.payload)
    names = [name for name, _ in lengths]
    if len(set(names)) != len(names) or not set(names) <= record.VECTORS:
        raise MessageError(f"{record.kind} does not carry vectors {names}")
    if 4 * sum(length for _, length in lengths) != len(envelope.payload):
        raise MessageError(f"payload of {len(envelope.payload)} bytes does not fit vectors {lengths}")
    vectors, offset = {}, 0
    for name, length in lengths:
        vectors[name] = np.frombuffer(envelope.payload, dtype="<f4", count=length, offset=offset)
        offset += 4 * length
    return Message(record, vectors)


def _decode_masked(record: AnyRecord, lengths: list[tuple[str, int]], payload: bytes) -> Message[AnyRecord]:
    if record.kind not in _MASKABLE or len(lengths) != 1 or 8 * lengths[0][1] != len(payload):
        raise MessageError(f"{record.kind} with {len(payload)} bytes does not carry masked numbers {lengths}")
    return Message(record, masked=np.frombuffer(payload, dtype="<u8"))


def attempt_token(run: str, site: str, round_: int, attempt: int, phase: str) -> str:
    """The mark of one sending of one request; a late reply to an earlier sending does not carry it."""
    return hashlib.sha256(f"{run}/{site}/{phase}/{round_}/{attempt}".encode()).hexdigest()[:32]


_MASKED = "masked"
_MASKABLE = frozenset({"train_reply", "evaluate_reply"})
_LENGTHS: TypeAdapter[list[tuple[str, int]]] = TypeAdapter(list[tuple[str, Annotated[int, Field(ge=0)]]])


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[AnyRecord, Field(discriminator="kind")])


def _header(record: AnyRecord, lengths: list[list[str | int]]) -> bytes:
    body = _adapter().dump_python(record, mode="json")
    return json.dumps({"vectors": lengths, "record": body}, separators=(",", ":")).encode()


def _brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']} ({error.error_count()} problems)"
    return type(error).__name__
