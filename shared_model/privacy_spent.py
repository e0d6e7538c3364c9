"""What a site states of the privacy that a study has cost its patients so far."""

from dataclasses import dataclass
from typing import Literal

from shared_model.protocol_privacy import AccountantName, Clipping
from shared_model.summaries import Record


@dataclass(frozen=True)
class PrivacySpent(Record):
    """``epsilon`` is what this run has cost, ``epsilon_total`` what all runs of all studies have, both at ``delta``; ``limit``
    is the site's own. ``planned`` is what the run would cost if it went on to its last round.

    ``noise_multiplier``, ``sampling_rate`` and ``steps`` (so far) are from where the numbers follow; none of them depends on
    what a patient's values are.
    """

    epsilon: float
    epsilon_total: float
    planned: float
    limit: float
    delta: float
    accountant: AccountantName
    noise_multiplier: float
    sampling_rate: float
    steps: int
    clipping: Clipping
    clip_norm: float
    unit: Literal["training patient"] = "training patient"
    sampling: Literal["Poisson"] = "Poisson"
