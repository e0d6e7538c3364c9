"""The privacy budget as people and scripts are shown it."""

from dataclasses import dataclass
from pathlib import Path

from client.governance.accounting import epsilon
from client.governance.budget import Ledger
from client.site_config import Policy
from client.state import lasting
from shared_model.protocol_privacy import AccountantName


@dataclass(frozen=True)
class RunCost:
    """One run under one protocol. ``rounds_charged`` counts charges, so a round that was drawn twice counts twice, and
    ``rounds_failed`` those of them that left no reply; ``planned`` is the epsilon of all planned rounds."""

    study: str
    run: str
    protocol_sha256: str
    rounds_planned: int
    rounds_charged: int
    rounds_failed: int
    epsilon: float
    planned: float
    noise_multiplier: float
    sampling_rate: float
    accountant: AccountantName
    last: str | None


@dataclass(frozen=True)
class Statement:
    """``spent`` is of the patients that took part in most, by ``accountant``; ``left`` is the limit less that."""

    site: str
    ledger: str
    limit: float
    delta: float
    spent: float
    left: float
    accountant: AccountantName
    runs: tuple[RunCost, ...]


def state_budget(state: Path, *, site: str, policy: Policy, accountant: AccountantName = "prv") -> Statement:
    """The budget of ``site``, whose worker keeps its memory in ``state``.

    Raises:
        ConfigurationError: the ledger is damaged.
    """
    ledger = Ledger(lasting(state, site), policy=policy)
    charges = ledger.charges()
    spent = ledger.spent(accountant=accountant)
    runs = []
    for plan in ledger.plans():
        mine = [charge for charge in charges if (charge.run, charge.protocol_sha256) == (plan.run, plan.protocol_sha256)]
        mechanisms = [charge.mechanism for charge in mine]
        runs.append(
            RunCost(
                study=plan.study,
                run=plan.run,
                protocol_sha256=plan.protocol_sha256,
                rounds_planned=plan.rounds,
                rounds_charged=len(mine),
                rounds_failed=sum(charge.reply is None for charge in mine),
                epsilon=epsilon(mechanisms, delta=policy.delta, accountant=plan.accountant),
                planned=plan.epsilon,
                noise_multiplier=plan.mechanism.noise_multiplier,
                sampling_rate=plan.mechanism.sampling_rate,
                accountant=plan.accountant,
                last=mine[-1].at if mine else None,
            )
        )
    left = max(0.0, policy.epsilon_limit - spent)
    return Statement(site, str(ledger.path), policy.epsilon_limit, policy.delta, spent, left, accountant, tuple(runs))
