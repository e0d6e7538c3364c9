"""Which numbers are summed under masks, in which order and with how many binary places: the same at the center and every site.

A secure sum adds one vector of integers from each site. Here a training update, its weight and the summaries beside it
become such a vector, and the sum of such vectors becomes an update and summaries again.
"""

import hashlib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model import masking
from shared_model.errors import FailureCode, RefusedError
from shared_model.masking import Words
from shared_model.messages import EvaluateRequest, Part, TrainRequest, Vector
from shared_model.protocol import StudyProtocol
from shared_model.protocol_evaluation import Evaluation
from shared_model.secure_records import session_digest
from shared_model.summaries import Performance, ScoreHistogram, ScoreSums, ThresholdCounts

MAXIMUM_PATIENTS = 1 << 20  # of one site in one part
LOSS_LIMIT = float(1 << 10)  # mean training loss of a site
CONTROL_EXTRA = float(1 << 10)  # a control variate may be so much larger than an update: it is one over a few small steps
SUMMARY_LIMIT = float(1 << 30)  # one number of a summary
_IDENTITY: dict[Any, frozenset[str]] = {
    ThresholdCounts: frozenset({"threshold"})
}  # fields that must be equal in summaries that are added

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """``length`` numbers of magnitude up to ``limit`` at each site; ``whole`` ones are exact, ``weighted`` ones count once for
    each of the site's training patients."""

    name: str
    length: int
    limit: float
    whole: bool = False
    weighted: bool = False


@dataclass(frozen=True)
class Layout:
    """The vector that each of ``sites`` sends: its segments, one after the other."""

    segments: tuple[Segment, ...]
    sites: int

    @property
    def length(self) -> int:
        """Words in the vector."""
        return sum(segment.length for segment in self.segments)

    def bits(self, segment: Segment) -> int:
        """Binary places of a segment: as many as cannot overflow in the sum of all sites, none for whole numbers."""
        places = masking.fraction_bits(sites=self.sites, limit=segment.limit)
        return 0 if segment.whole else places

    def pack(self, values: Mapping[str, NDArray[np.floating]], *, weight: int = 1) -> Words:
        """One site's vector; ``values`` by name of segment, none missing, ``weight`` its training patients.

        Raises:
            RefusedError: a number is not finite, or beyond its segment's limit.
        """
        words = np.empty(self.length, np.uint64)
        for segment, place in self._places():
            numbers = values[segment.name]
            if numbers.shape != (segment.length,):
                raise RefusedError(
                    FailureCode.WRONG_SHAPE, f"{segment.name} of {numbers.shape} where {segment.length} are summed"
                )
            factor = float(weight) if segment.weighted else 1.0
            words[place] = masking.encode(numbers, limit=segment.limit, bits=self.bits(segment), weight=factor)
        return words

    def unpack(self, words: Words) -> dict[str, Numbers]:
        """The sum of the sites' values, float64, by name of segment."""
        return {segment.name: masking.decode(words[place], bits=self.bits(segment)) for segment, place in self._places()}

    def _places(self) -> Iterator[tuple[Segment, slice]]:
        start = 0
        for segment in self.segments:
            yield segment, slice(start, start + segment.length)
            start += segment.length


def request_digest(request: TrainRequest | EvaluateRequest, vectors: Mapping[str, Vector]) -> str:
    """``session_digest`` of a request: all of it that is the same for every site, its model included."""
    assert request.masking is not None
    statement = {
        "kind": request.kind,
        "run": request.task.run,
        "round": request.task.round,
        "seed": request.task.seed,
        "protocol": request.task.protocol_json,
        "layout": request.layout,
        "normalization": None if request.normalization is None else request.normalization.__dict__,
        "parts": request.parts if isinstance(request, EvaluateRequest) else (),
    }
    content = {name: np.ascontiguousarray(vector, "<f4").tobytes() for name, vector in vectors.items()}
    return session_digest(request.masking, statement, content)


def subject(request: TrainRequest | EvaluateRequest, vectors: Mapping[str, Vector]) -> str:
    """What is asked, by which protocol and of which model, whatever the round or run: a site's numbers are alike."""
    model = np.ascontiguousarray(vectors["weights"], "<f4").tobytes() if "weights" in vectors else b""
    content = request.task.protocol_json.encode() + b"\0" + model
    return f"{request.kind}/{hashlib.sha256(content).hexdigest()}"


def training_layout(protocol: StudyProtocol, *, size: int, sites: int) -> Layout:
    """Of a round: the update of ``size`` parameters times its weight, the weight, the loss, and the tuning performance."""
    limit = MAXIMUM_PATIENTS * protocol.federation.max_update_norm
    segments = [Segment("update", size, limit, weighted=True)]
    if protocol.federation.client_rule.kind == "scaffold":
        segments.append(Segment("control", size, limit * CONTROL_EXTRA, weighted=True))
    # All training patients, and those of sites that tell their loss.
    segments.append(Segment("patients", 2, float(MAXIMUM_PATIENTS), whole=True))
    segments.append(Segment("loss", 1, MAXIMUM_PATIENTS * LOSS_LIMIT, weighted=True))
    return Layout((*segments, *_of_performance("tune", protocol.evaluation)), sites)


def evaluation_layout(protocol: StudyProtocol, parts: tuple[Part, ...], *, sites: int) -> Layout:
    """Of an evaluation: the performance on each of ``parts``, of the common model and, with Ditto, of the sites' own."""
    names = [*parts, *(f"personal.{part}" for part in parts if protocol.federation.client_rule.kind == "ditto")]
    return Layout(tuple(segment for name in names for segment in _of_performance(name, protocol.evaluation)), sites)


def training_values(patients: int, loss: float | None) -> dict[str, Numbers]:
    """The segments of a site's weight and mean training loss."""
    weights = [float(patients), 0.0 if loss is None else float(patients)]
    return {"patients": np.array(weights), "loss": np.array([loss or 0.0])}


def performance_values(name: str, performance: Performance | None, evaluation: Evaluation) -> dict[str, Numbers]:
    """The segments of a performance; of nobody where a site has none.

    Raises:
        RefusedError: ``WRONG_SHAPE`` if it has not the bins and thresholds of the protocol.
    """
    template = nobody(evaluation)
    leaves = list(_leaves(template, template if performance is None else performance))
    whole = [value for kind, value in leaves if kind is int]
    other = [value for kind, value in leaves if kind is float]
    return {f"{name}.counts": np.array(whole, np.float64), f"{name}.sums": np.array(other, np.float64)}


def performance_of(name: str, values: Mapping[str, Numbers], evaluation: Evaluation) -> Performance:
    """The performance whose segments are in ``values``."""
    summed: Performance = _rebuild(nobody(evaluation), iter(values[f"{name}.counts"]), iter(values[f"{name}.sums"]))
    return summed


def nobody(evaluation: Evaluation) -> Performance:
    """The performance on no patient, with the protocol's bins and thresholds."""
    thresholds = tuple(ThresholdCounts(threshold) for threshold in evaluation.thresholds)
    return Performance(ScoreHistogram.zero(evaluation.histogram_bins), ScoreSums(), thresholds)


def without_sums(performance: Performance) -> Performance:
    """Only what does not add up: the site's own estimates. The rest is told under masks."""
    return replace(performance, histogram=ScoreHistogram.zero(0), sums=ScoreSums(), thresholds=())


def without_histogram(performance: Performance) -> Performance:
    """All but the histogram, which is told under masks."""
    return replace(performance, histogram=ScoreHistogram.zero(0))


def _of_performance(name: str, evaluation: Evaluation) -> tuple[Segment, Segment]:
    kinds = [kind for kind, _ in _leaves(nobody(evaluation), nobody(evaluation))]
    return (
        Segment(f"{name}.counts", kinds.count(int), float(MAXIMUM_PATIENTS), whole=True),
        Segment(f"{name}.sums", kinds.count(float), SUMMARY_LIMIT),
    )


# ---- additive summaries as numbers. What adds up are the fields of plain type: whole numbers, floats, tuples of them, and
# summaries in turn. A field that may be None is an estimate of the site's own.


def _leaves(template: Any, summary: Any) -> Iterator[tuple[type, float]]:
    kind: Any = type(template)
    if isinstance(template, ScoreHistogram):
        if summary.bins != template.bins:
            raise RefusedError(FailureCode.WRONG_SHAPE, f"{summary.bins} bins where the protocol asks for {template.bins}")
        yield from ((int, int(count)) for counts in summary.by_bin for count in counts)
    elif is_dataclass(template):
        for name in _additive(kind):
            yield from _leaves(getattr(template, name), getattr(summary, name))
        if any(getattr(template, name) != getattr(summary, name) for name in _IDENTITY.get(kind, ())):
            raise RefusedError(FailureCode.WRONG_SHAPE, f"a {kind.__name__} that is not of the protocol")
    elif isinstance(template, tuple):
        if len(template) != len(summary):
            raise RefusedError(FailureCode.WRONG_SHAPE, f"{len(summary)} numbers where the protocol asks for {len(template)}")
        for inner, value in zip(template, summary, strict=True):
            yield from _leaves(inner, value)
    else:
        yield kind, summary


def _rebuild(template: Any, whole: Iterator[float], other: Iterator[float]) -> Any:
    if isinstance(template, ScoreHistogram):
        counts = np.array([int(next(whole)) for _ in range(2 * template.bins)], np.int64)
        return ScoreHistogram.of_bins(*np.split(counts, 2))
    if is_dataclass(template) and not isinstance(template, type):
        kind: Any = type(template)
        return replace(template, **{name: _rebuild(getattr(template, name), whole, other) for name in _additive(kind)})
    if isinstance(template, tuple):
        return tuple(_rebuild(inner, whole, other) for inner in template)
    return int(next(whole)) if isinstance(template, int) else float(next(other))


@cache
def _additive(kind: Any) -> tuple[str, ...]:
    hints = typing.get_type_hints(kind)
    identity = _IDENTITY.get(kind, frozenset())
    return tuple(field.name for field in fields(kind) if field.name not in identity and not _optional(hints[field.name]))


def _optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint)
