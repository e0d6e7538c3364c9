"""``scored`` with what is the same for every model of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from server.records import RunRecord
from server.results import scored
from shared_model import metrics
from shared_model.protocol_evaluation import Evaluation
from shared_model.summaries import Performance

Json = dict[str, Any]


@dataclass(frozen=True)
class Scorer:
    """``common`` are the thresholds chosen by rule on the tuning patients of all sites together."""

    evaluation: Evaluation
    common: Mapping[str, float]

    @classmethod
    def of(cls, record: RunRecord) -> Self:
        """For the models of ``record``."""
        tuning = [reply.parts["tune"] for reply in record.evaluations.values() if "tune" in reply.parts]
        together = record.summed.get("tune") or metrics.pool(tuning)
        evaluation = record.protocol.evaluation
        return cls(evaluation, metrics.thresholds_by_rule(together.histogram, evaluation.sensitivities))

    def at_site(self, performance: Performance, *, absence: str = "no test patients") -> Json:
        """One model at one site."""
        return scored.at_site(performance, evaluation=self.evaluation, common=self.common, absence=absence)

    def over_sites(self, performances: Sequence[Performance], *, together: Performance | None = None) -> Json:
        """One model at all sites together."""
        return scored.over_sites(performances, evaluation=self.evaluation, common=self.common, together=together)
