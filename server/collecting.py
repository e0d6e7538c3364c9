"""What the center adds up: the replies of a round, and the descriptions of the sites."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from server import admission
from server.aggregation import Aggregator, Summed, WeightedMean, aggregator
from server.masked_rounds import Opened
from server.records import SiteRound, SummedRound
from shared_model.errors import FailureCode, RefusedError, StudyError
from shared_model.inputs import categorical_names, numeric_names
from shared_model.messages import DescribeReply, EvaluateReply, Message, Part, TrainReply
from shared_model.protocol import StudyProtocol
from shared_model.secure_layout import evaluation_layout, performance_of, training_layout
from shared_model.summaries import CategoryCounts, Moments, Normalization, Performance

CONTROL = "control"


@dataclass
class RoundInProgress:
    """What has been admitted of a round so far; ``size`` is the length ``D`` of an update."""

    size: int
    protocol: StudyProtocol
    counted: dict[str, SiteRound] = field(default_factory=dict)
    summed: SummedRound | None = None

    def __post_init__(self) -> None:
        self.updates: Aggregator = aggregator(self.protocol.federation.aggregation, size=self.size)
        self.controls: Aggregator = WeightedMean(self.size)

    def count(self, site: str, message: Message[TrainReply]) -> None:
        """Add an admitted reply; its update is not kept where the aggregation rule can do without."""
        record = message.record
        self.updates.add(site, message.vectors["update"], weight=record.patients)
        if CONTROL in message.vectors:
            self.controls.add(site, message.vectors[CONTROL], weight=record.patients)
        self.counted[site] = SiteRound(
            patients=record.patients,
            loss=record.loss,
            steps=record.steps,
            seconds=record.seconds,
            update_norm=admission.update_norm(message),
            tune=record.tune,
            suppressed=record.suppressed,
            privacy=record.privacy,
        )

    def count_sum(self, opened: Opened[TrainReply], descriptions: Mapping[str, DescribeReply]) -> None:
        """Take the sum of all sites that count, which must fit what they described.

        Raises:
            StudyError: it does not.
        """
        values = training_layout(self.protocol, size=self.size, sites=opened.sites).unpack(opened.words)
        tune = performance_of("tune", values, self.protocol.evaluation)
        patients, told = (int(count) for count in values["patients"])
        update = (values["update"] / max(patients, 1)).astype(np.float32)
        norm, limit = float(np.linalg.norm(update.astype(np.float64))), self.protocol.federation.max_update_norm
        with _explained(opened):
            if patients != sum(reply.patients for reply in opened.replies.values()):
                raise RefusedError(FailureCode.WRONG_COUNT, f"{patients} training patients in the sum")
            if norm > limit:
                raise RefusedError(FailureCode.NORM_EXCEEDED, f"a mean update of norm {norm:.4g}, the limit is {limit:.4g}")
            summed = {site: descriptions[site] for site, reply in opened.replies.items() if reply.tune is not None}
            admission.admit_sum(tune, "tune", protocol=self.protocol, described=summed.values())
        self.updates = Summed(update)
        if "control" in values:
            self.controls = Summed((values["control"] / patients).astype(np.float32))
        self.counted = {
            site: SiteRound(reply.patients, None, reply.steps, reply.seconds, None, reply.tune, reply.suppressed, reply.privacy)
            for site, reply in opened.replies.items()
        }
        loss = float(values["loss"][0]) / told if told else None
        self.summed = SummedRound(patients, loss, norm, tune, opened.trust)


def evaluations_together(
    opened: Opened[EvaluateReply], protocol: StudyProtocol, parts: tuple[Part, ...], descriptions: Mapping[str, DescribeReply]
) -> dict[str, Performance]:
    """The performance of all sites together by part, and of their own models by ``personal.`` part.

    Raises:
        StudyError: it does not fit what the sites described.
    """
    layout = evaluation_layout(protocol, parts, sites=opened.sites)
    values = layout.unpack(opened.words)
    names = dict.fromkeys(segment.name.rpartition(".")[0] for segment in layout.segments)
    together = {name: performance_of(name, values, protocol.evaluation) for name in names}
    with _explained(opened):
        for name, performance in together.items():
            part = cast(Part, name.removeprefix("personal."))
            told = {s: reply.personal if name != part else reply.parts for s, reply in opened.replies.items()}
            summed = [descriptions[site] for site, results in told.items() if part in results]
            admission.admit_sum(performance, part, protocol=protocol, described=summed)
    return together


@contextmanager
def _explained(opened: Opened[Any]) -> Iterator[None]:
    """Whose numbers are wrong cannot be told: only the sum is known, and it may not be taken apart by leaving one out."""
    try:
        yield
    except RefusedError as error:
        raise StudyError(
            f"the secure sum of {', '.join(sorted(opened.replies))} does not fit what they described ({error.detail}). One of "
            "them sent other numbers; which one, a secure sum hides. Have the sites look at their logs and releases."
        ) from None


def pooled_normalization(descriptions: Iterable[DescribeReply], protocol: StudyProtocol) -> Normalization:
    """Normalisation from the summed moments and counts of all sites' training patients."""
    moments = {name: Moments() for name in numeric_names(protocol)}
    counts = {name: CategoryCounts((0,) * len(protocol.variables[name].categories)) for name in categorical_names(protocol)}
    for description in descriptions:
        moments = {name: summary + description.moments[name] for name, summary in moments.items()}
        counts = {name: summary + description.categories[name] for name, summary in counts.items()}
    return Normalization.of(list(moments.values()), list(counts.values()))
