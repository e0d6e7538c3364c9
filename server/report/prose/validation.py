"""Methods: how the model was judged, and with which statistics."""

from collections.abc import Iterator
from typing import Any

from server.report.prose.part import Part, part
from server.report.wording import listing
from shared_model.protocol import StudyProtocol

Json = dict[str, Any]

_SELECTIONS = {"auc": "the largest AUC", "log_loss": "the smallest log loss", "brier": "the smallest Brier score"}


def validation(protocol: StudyProtocol, document: Json) -> Part:
    """Which model was judged, on whom, against what."""
    evaluation, run = protocol.evaluation, document["run"]
    chosen = (
        f"The model after the last round ({run['best_round']}) was evaluated."
        if evaluation.selection == "last"
        else f"The model after round {run['best_round']} was evaluated, the one with {_SELECTIONS[evaluation.selection]} on "
        "the "
        "tuning patients of all sites together; test patients played no part in the choice."
    )
    patience = f"Training was to stop after {evaluation.patience} rounds without a better one." if evaluation.patience else None
    kind = document["design"]["kind"]
    design = None if kind == "split at each site" else f"The design was {kind}."
    return part("Validation", design, chosen, patience, _comparators(document))


def _comparators(document: Json) -> str | None:
    arms = [
        words
        for there, words in (
            (any("local_only" in site for site in document["sites"].values()), "models trained at one site alone"),
            ("central" in document, "one trained on all patients in one place"),
            ("logistic" in document, "a logistic regression on the tabular variables"),
        )
        if there
    ]
    return f"For comparison, on the same test patients: {listing(arms)}." if arms else None


def statistics(protocol: StudyProtocol, document: Json) -> Part:
    """Estimators and intervals."""
    return part("Statistical analysis", *_estimators(protocol))


def _estimators(protocol: StudyProtocol) -> Iterator[str]:
    yield (
        "Discrimination at a site is the AUC with DeLong's interval on the logit scale (Newcombe's score interval where that "
        "variance vanishes)."
    )
    yield (
        f"Over all sites the AUC follows from the sum of the sites' score histograms ({protocol.evaluation.histogram_bins} "
        "bins), "
        "with a bound on the error of the binning; it is never a mean of site results."
    )
    yield (
        "Calibration is described by the observed/expected ratio, the intercept (calibration in the large) and slope of "
        "logistic recalibration, and the Brier score."
    )
    thresholds = [f"{threshold:g}" for threshold in protocol.evaluation.thresholds]
    if thresholds:
        plural = "s" if len(thresholds) > 1 else ""
        yield (
            f"Sensitivity, specificity and predictive values were taken at the probability threshold{plural} "
            f"{listing(thresholds)}, fixed in the protocol, with Wilson's intervals; net benefit after Vickers and Elkin "
            "(2006)."
        )
    yield "Intervals are of 95%; nothing was corrected for multiple comparisons."
