"""An explanation with noise costs privacy: it is charged to the hospital's ledger before it leaves."""

import hashlib
from collections.abc import Collection

from client.explaining.noise import noise_multiplier
from client.governance.budget import Ledger
from client.training.private import Mechanism
from shared_model.explanations import ExplanationSummary
from shared_model.protocol import StudyProtocol
from shared_model.protocol_privacy import DifferentialPrivacy


def charge_explanation(
    summary: ExplanationSummary,
    protocol: StudyProtocol,
    *,
    ledger: Ledger,
    run: str,
    model: int,
    patients: Collection[str],
) -> None:
    """Charge one use of the Gaussian mechanism on all of ``patients``; asked for again, it is other noise and charged again.

    Raises:
        RefusedError: ``BUDGET_EXCEEDED``; then ``summary`` may not leave.
    """
    settings = protocol.explanation
    assert settings is not None
    assert settings.epsilon is not None
    spending = DifferentialPrivacy(epsilon=max(settings.epsilon, ledger.policy.epsilon_limit))  # the site's limit decides
    charged = protocol.model_copy(update={"privacy": protocol.privacy.model_copy(update={"dp": spending})})
    ledger.charge(
        charged,
        Mechanism(noise_multiplier(settings.epsilon, settings.delta), sampling_rate=1.0, steps=1),
        run=f"{run}-explanation",
        round_=model,
        patients=patients,
        request="",
        reply=hashlib.sha256(repr(sorted(summary.cells.items())).encode()).hexdigest(),
    )
