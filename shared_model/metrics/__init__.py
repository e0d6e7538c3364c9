"""How well a model does: pure functions of scores, or of additive summaries, each checked against an independent oracle.

``scores`` are predicted probabilities, float ``[n]`` in 0..1, and ``labels`` ``[n]`` are 0 or 1. What cannot be estimated
(nobody, one outcome class, too few patients) is ``None``, never NaN and never an exception. Intervals are of 95 %.
"""

from shared_model.metrics.calibration import (
    calibration_in_the_large,
    calibration_slope,
    histogram_calibration_in_the_large,
    histogram_calibration_slope,
    recalibrated,
    recalibration,
)
from shared_model.metrics.discrimination import (
    MINIMUM_PER_CLASS,
    auc,
    auc_interval,
    average_precision,
    delong_variance,
    histogram_auc,
    histogram_auc_interval,
    histogram_average_precision,
    histogram_roc,
)
from shared_model.metrics.overall import brier, log_loss, oe_ratio, scaled_brier
from shared_model.metrics.pooling import pool, selection_score
from shared_model.metrics.scale import Bounded, Floats, Z
from shared_model.metrics.smoothing import smoothed
from shared_model.metrics.thresholds import (
    accuracy,
    interventions_avoided,
    net_benefit,
    net_benefit_treat_all,
    npv,
    ppv,
    predictive_values_at,
    sensitivity,
    specificity,
    threshold_of_sensitivity,
    threshold_of_youden,
    thresholds_by_rule,
    wilson,
)

__all__ = [
    "MINIMUM_PER_CLASS",
    "Bounded",
    "Floats",
    "Z",
    "accuracy",
    "auc",
    "auc_interval",
    "average_precision",
    "brier",
    "calibration_in_the_large",
    "calibration_slope",
    "delong_variance",
    "histogram_auc",
    "histogram_auc_interval",
    "histogram_average_precision",
    "histogram_calibration_in_the_large",
    "histogram_calibration_slope",
    "histogram_roc",
    "interventions_avoided",
    "log_loss",
    "net_benefit",
    "net_benefit_treat_all",
    "npv",
    "oe_ratio",
    "pool",
    "ppv",
    "predictive_values_at",
    "recalibrated",
    "recalibration",
    "scaled_brier",
    "selection_score",
    "sensitivity",
    "smoothed",
    "specificity",
    "threshold_of_sensitivity",
    "threshold_of_youden",
    "thresholds_by_rule",
    "wilson",
]
