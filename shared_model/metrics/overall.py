"""Overall accuracy of probabilities, from sums over patients."""

from shared_model.counts import ScoreSums
from shared_model.metrics.thresholds import wilson
from shared_model.record import Estimate


def brier(sums: ScoreSums) -> float | None:
    """Mean squared difference between probability and outcome; 0 is perfect."""
    return sums.squared_error / sums.count if sums.count else None


def scaled_brier(sums: ScoreSums) -> float | None:
    """One minus the Brier score over that of predicting the prevalence for everybody; 1 is perfect, 0 useless."""
    value = brier(sums)
    if value is None or not 0 < sums.positives < sums.count:
        return None
    prevalence = sums.positives / sums.count
    return 1.0 - value / (prevalence * (1.0 - prevalence))


def log_loss(sums: ScoreSums) -> float | None:
    """Mean negative log likelihood."""
    return sums.log_loss / sums.count if sums.count else None


def oe_ratio(sums: ScoreSums) -> Estimate | None:
    """Observed over expected events; above 1 the model predicts too few. Wilson's interval of the observed share, with the
    expected number taken as known."""
    observed = wilson(sums.positives, sums.count)
    if observed is None or observed.low is None or observed.high is None or sums.probability <= 0.0:
        return None
    expected = sums.probability / sums.count
    return Estimate(
        observed.value / expected, observed.low / expected, observed.high / expected, "Wilson of the observed share"
    )
