"""The protocol's section ``[evaluation]``: how the model is judged."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared_model.config_file import Strict
from shared_model.protocol_design import Fold
from shared_model.protocol_words import Fraction, Name

Probability = Annotated[float, Field(gt=0.0, lt=1.0)]


class Subgroup(Strict):
    """Test patients by one variable: by its categories, or, of a numeric one, by bands that begin at each of ``cuts``."""

    cuts: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.cuts) != sorted(set(self.cuts)):
            raise ValueError("cuts ascend, without repetition || sort them")
        return self


class Evaluation(Strict):
    """How the model is judged; ``selection`` picks the best round on tuning patients of all sites together.

    Besides the pre-set ``thresholds``, those that reach each of ``sensitivities`` and the best of Youden's index are found on
    tuning patients. ``prevalences`` are those for which predictive values are restated. ``bootstrap`` is the number of
    replicates for intervals that no formula gives. ``risk_strata`` are the two probabilities that part low, intermediate and
    high risk; without them they follow from tuning patients. Sites named ``external`` take no part in training or tuning: all
    their patients are tested. Under ``fold``, every other site's are split anew.
    """

    thresholds: tuple[Probability, ...] = (0.5,)
    sensitivities: tuple[Probability, ...] = (0.9, 0.95)
    prevalences: tuple[Probability, ...] = ()
    subgroups: dict[str, Subgroup] = Field(default_factory=dict)
    bootstrap: int = Field(default=2000, ge=200, le=20_000)
    histogram_bins: int = Field(default=200, ge=10, le=2000)
    selection: Literal["auc", "log_loss", "brier", "last"] = "auc"
    patience: int | None = Field(default=None, ge=1)  # stop after so many rounds without a better one
    risk_strata: tuple[Fraction, Fraction] | None = None
    external: tuple[Name, ...] = ()
    fold: Fold | None = None

    @model_validator(mode="after")
    def _something_to_wait_for(self) -> Self:
        if self.patience is not None and self.selection == "last":
            raise ValueError('no patience where selection = "last" || remove patience, or select by "auc"')
        return self

    @model_validator(mode="after")
    def _strata_of_bins(self) -> Self:
        if self.risk_strata is None:
            return self
        low, high = self.risk_strata
        edges = tuple(round(cut * self.histogram_bins) / self.histogram_bins for cut in (low, high))
        if not 0.0 < low < high < 1.0:
            raise ValueError("risk_strata are [low, high] with 0 < low < high < 1 || mend the two numbers")
        if max(abs(cut - edge) for cut, edge in zip((low, high), edges, strict=True)) > 1e-9:
            raise ValueError(
                f"risk_strata are edges of the {self.histogram_bins} bins in which scores are counted || use {list(edges)}"
            )
        return self
