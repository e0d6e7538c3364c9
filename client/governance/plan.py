"""A study protocol in plain words, for the person at the hospital who is to approve it: what runs, what leaves, what limits."""

from collections.abc import Iterator

from client.governance.approval import planned_epsilon
from client.site_config import SiteConfig
from shared_model.messages import PARTS_IN_WORDS
from shared_model.protocol import StudyProtocol
from shared_model.protocol_explanation import Explanation


def in_words(protocol: StudyProtocol, config: SiteConfig) -> list[tuple[str, list[str]]]:
    """Headed paragraphs of short sentences."""
    return [
        (f"Study {protocol.study.name}", list(_study(protocol))),
        ("What would run here", list(_runs(protocol, config))),
        ("What would leave this hospital", list(_leaves(protocol, config))),
        ("What would not leave it", ["Values and pictures of patients, identifiers, names of files, texts of errors."]),
        ("What a patient is protected by", list(_protection(protocol, config))),
    ]


def obstacles(protocol: StudyProtocol, config: SiteConfig) -> list[str]:
    """What this site's policy would refuse of the protocol, whatever is approved."""
    policy, rounds = config.policy, protocol.federation.rounds
    found = []
    if rounds > policy.max_rounds:
        found.append(f"it has {rounds} rounds, policy.max_rounds is {policy.max_rounds}: later rounds would be refused")
    asked = ["describe", "train", "evaluate", *(["explain"] if protocol.explanation else [])]
    refused = [task for task in asked if task not in policy.tasks]
    if refused:
        found.append(f"policy.tasks does not list {', '.join(refused)}: these requests would be refused")
    if policy.dp_required and protocol.privacy.dp is None:
        found.append("policy.dp_required is set, and the study trains without differential privacy: training would be refused")
    if protocol.explanation is not None and (own := protocol.explanation.epsilon):
        spent = planned_epsilon(protocol, policy) or 0.0
        if spent + own > policy.epsilon_limit:
            found.append(
                f"training may spend epsilon {spent:g} and the explanation asks for {own:g} more, policy.epsilon_limit is "
                f"{policy.epsilon_limit:g}: the explanation would be refused once training has spent too much"
            )
    return found


def _study(protocol: StudyProtocol) -> Iterator[str]:
    yield protocol.study.title
    yield f"A positive patient is one with: {protocol.study.outcome}."
    yield f"Protocol: SHA-256 {protocol.sha256}"
    yield "The approval is for this very protocol. If one character of it changes, it is another one, and is refused."


def _runs(protocol: StudyProtocol, config: SiteConfig) -> Iterator[str]:
    training = protocol.training
    much = f"{training.epochs} passes over the training patients" if training.epochs else f"{training.steps} steps"
    if training.epochs == 1:
        much = "one pass over the training patients"
    yield f"Up to {protocol.federation.rounds} rounds: in each, {much}, and the scoring of the tuning patients."
    yield "Then the model is scored on the tuning and test patients."
    if (explanation := protocol.explanation) is not None:
        parts = " and ".join(PARTS_IN_WORDS[part] for part in explanation.parts)
        yield f"Then it is worked out why the model says what it says, of at most {explanation.patients} {parts} patients."
    yield "The same when the study is repeated without one hospital, or cross-validated."
    yield "Nothing else may be asked for under this approval."
    yield from _inputs(protocol, config)


def _inputs(protocol: StudyProtocol, config: SiteConfig) -> Iterator[str]:
    variables = list(protocol.variables)
    mapped = [name for name in variables if name in config.cohort.variables]
    if variables:
        yield f"Variables used: {', '.join(mapped) or 'none'}; not at this hospital: {_listed(variables, mapped)}."
    if protocol.images:
        there = "used" if config.images else "not at this hospital"
        yield f"Pictures ({', '.join(protocol.images.views)}): {there}."
    if protocol.comparators:
        yield f"Clinicians' own assessments, beside which the model is judged: {', '.join(protocol.comparators)}."


def _listed(all_: list[str], mapped: list[str]) -> str:
    return ", ".join(name for name in all_ if name not in mapped) or "none"


def _leaves(protocol: StudyProtocol, config: SiteConfig) -> Iterator[str]:
    policy = config.policy
    yield "Once: how many patients train, tune and test, and how many of them are positive; why others were left out; how many"
    yield "  lack each variable; mean and spread of each number, and counts of each category, of the training patients."
    kept = protocol.federation.personal
    apart = f", but for the parts that stay here ({', '.join(kept)})" if kept else ""
    yield f"Each round: the change of the network's weights{apart}; the mean training loss; how the model does on"
    yield "  tuning patients."
    yield "At the end: how it does on tuning and test patients: AUC, calibration, counts at thresholds, a coarse histogram"
    yield "  of scores."
    groups = [*protocol.evaluation.subgroups, "which kind of information they have"]
    yield f"  The same for groups of patients by {', '.join(groups)}."
    if protocol.comparators:
        yield f"  How {', '.join(protocol.comparators)} did on the same patients, and how the model differs from it."
    yield "  How it differs there from models that the center trains for comparison, if it does."
    if protocol.explanation is not None:
        yield from _explanation(protocol.explanation)
    if protocol.privacy.secure_sum:
        yield "Secure aggregation: the change of the weights, the loss and the histograms leave under masks only, from which"
        yield f"  the center gets the sum over at least {policy.minimum_summed_sites} sites and those of no single one."
        yield (
            "  The other sites' keys are those of this site's roster."
            if config.identity.roster
            else "  This site has no roster of the other sites' keys: it believes the first that the center shows it."
        )
    yield (
        f"Nothing of a group of fewer than {policy.minimum_patients} patients, and no count of 1 to {policy.minimum_cell - 1}; "
        "what is left out for that is said to the center by name."
        if policy.minimum_cell > 1
        else f"Nothing of a group of fewer than {policy.minimum_patients} patients. Counts of single patients may leave: "
        "policy.minimum_cell is 1."
    )


def _explanation(settings: Explanation) -> Iterator[str]:
    if settings.epsilon is not None:
        yield "  Why the model says what it says: how much each kind of information and each variable weighs, with noise."
        return
    yield "  Why the model says what it says, as sums over patients: how much each kind of information and each variable"
    yield "  weighs, and in which range of it; how the methods of explaining do in tests. No map of a picture leaves."
    if (by := settings.risk_by) is not None:
        yield f"  How many patients have the outcome, and what the model expects, by {by.position} and {by.distance}."
    if settings.drift:
        yield f"  The same in short after {settings.drift} rounds on the way."


def _protection(protocol: StudyProtocol, config: SiteConfig) -> Iterator[str]:
    yield from _of_training(protocol, config)
    if protocol.explanation is not None:
        own = protocol.explanation.epsilon
        yield (
            "The explanation has no noise: whoever knows all other patients in it could tell whether one was there."
            if own is None
            else f"The explanation has noise of its own: epsilon {own:g} besides, of the same budget."
        )


def _of_training(protocol: StudyProtocol, config: SiteConfig) -> Iterator[str]:
    epsilon, dp = planned_epsilon(protocol, config.policy), protocol.privacy.dp
    if epsilon is None or dp is None:
        yield "No differential privacy: whoever sees this hospital's weights may be able to learn of single patients from them."
        yield (
            "The center sees the sum of all sites' weights only, unless all other sites side with it."
            if protocol.privacy.secure_sum
            else "The center sees them: the study does not use secure aggregation. Approve only if you trust it with that."
        )
        return
    yield f"Differential privacy: at most epsilon {epsilon:g} at delta {config.policy.delta:g} for each training patient,"
    yield f"  all pictures together (accountant {dp.accountant}); this hospital computes its own noise, and stops when its"
    yield "  budget is spent."
