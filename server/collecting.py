"""What the center adds up: the replies of a round, and the descriptions of the sites."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from server import admission
from server.aggregation import WeightedMean, aggregator
from server.records import SiteRound
from shared_model.inputs import categorical_names, numeric_names
from shared_model.messages import DescribeReply, Message, TrainReply
from shared_model.protocol import StudyProtocol
from shared_model.summaries import CategoryCounts, Moments, Normalization

CONTROL = "control"


@dataclass
class RoundInProgress:
    """What has been admitted of a round so far; ``size`` is the length ``D`` of an update."""

    size: int
    protocol: StudyProtocol
    counted: dict[str, SiteRound] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.updates = aggregator(self.protocol.federation.aggregation, size=self.size)
        self.controls = WeightedMean(self.size)

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
        )


def pooled_normalization(descriptions: Iterable[DescribeReply], protocol: StudyProtocol) -> Normalization:
    """Normalisation from the summed moments and counts of all sites' training patients."""
    moments = {name: Moments() for name in numeric_names(protocol)}
    counts = {name: CategoryCounts((0,) * len(protocol.variables[name].categories)) for name in categorical_names(protocol)}
    for description in descriptions:
        moments = {name: summary + description.moments[name] for name, summary in moments.items()}
        counts = {name: summary + description.categories[name] for name, summary in counts.items()}
    return Normalization.of(list(moments.values()), list(counts.values()))
