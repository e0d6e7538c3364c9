"""``train``: score the model that comes in on tuning patients, train it on training patients, send back the difference.

With differential privacy the training is private, and is charged to the site's ledger before its result is returned
(``client.tasks.private_round``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from client.state import SiteState
from client.tasks.scoring import performance
from client.tasks.workbench import Workbench
from client.training import rules
from client.training.entropy import fresh_generator
from client.training.loop import LocalTraining, train_locally
from client.training.private import train_privately
from client.training.rules import ControlVariate, Correction, Proximal
from shared_model.errors import FailureCode, RefusedError
from shared_model.messages import TrainRequest, Vector
from shared_model.seeds import derive
from shared_model.summaries import Performance

PERSONAL, CONTROL, OWN_MODEL = "personal", "control", "own_model"


@dataclass(frozen=True)
class Trained:
    """Result of one round at one site: ``vectors`` as ``TrainReply`` carries them, ``remembered`` is the site's own state."""

    patients: int
    local: LocalTraining
    tune: Performance | None
    vectors: dict[str, Vector]
    remembered: dict[str, Vector]


def train(bench: Workbench, request: TrainRequest, vectors: Mapping[str, Vector], *, state: SiteState) -> Trained:
    """Do one round as ``request`` asks, without differential privacy, and store the site's own state after it.

    Raises:
        RefusedError: without training patients, a model that is refused, or a loss that stops being finite.
    """
    trained = one_round(bench, request, vectors, state=state, noise=None)
    remember(trained, request, state)
    return trained


def remember(trained: Trained, request: TrainRequest, state: SiteState) -> None:
    """Store what the site keeps of a round for its next one."""
    if trained.remembered:
        state.save(request.task.round, trained.remembered, keep=(request.basis, *request.keep))


def one_round(
    bench: Workbench, request: TrainRequest, vectors: Mapping[str, Vector], *, state: SiteState, noise: float | None
) -> Trained:
    """One round from the state before it; stores nothing. ``noise`` is the noise multiplier of private training, None
    without.

    Raises:
        RefusedError: as ``train``.
    """
    index = bench.parts["train"]
    if not len(index):
        raise RefusedError(FailureCode.TOO_FEW_PATIENTS, "no training patients")
    kept = state.load(request.basis)
    bench.receive(
        vectors.get("weights"), layout=request.layout, normalization=request.normalization, personal=kept.get(PERSONAL)
    )
    tune = _tune(bench)
    rule = bench.protocol.federation.client_rule.kind
    received = bench.spec.to_vector(bench.network)
    own_model = _train_own_model(bench, request, kept) if rule == "ditto" else None  # never with differential privacy
    if own_model is not None:
        bench.spec.load(bench.network, received)
    correction = _correction(bench, vectors, kept)
    local = (
        _train(bench, request, correction, purpose="train") if noise is None else _privately(bench, request, correction, noise)
    )
    update = bench.spec.to_vector(bench.network) - received
    sent, remembered = {"update": update}, {}
    if rule == "scaffold":
        own = _control(kept.get(CONTROL), bench)
        renewed = rules.renewed_control(
            own=torch.from_numpy(own),
            server=torch.from_numpy(_control(vectors.get("control"), bench)),
            update=torch.from_numpy(update),
            rate_sum=local.rate_sum,
        ).numpy()
        sent["control"] = renewed - own
        remembered[CONTROL] = renewed
    if own_model is not None:
        remembered[OWN_MODEL] = own_model
    if bench.spec.personal:
        remembered[PERSONAL] = bench.spec.personal_vector(bench.network)
    return Trained(patients=len(index), local=local, tune=tune, vectors=sent, remembered=remembered)


def _tune(bench: Workbench) -> Performance | None:
    index = bench.parts["tune"]
    if not len(index):
        return None
    return performance(bench.scores(index), bench.labels(index), evaluation=bench.protocol.evaluation)


def _train(bench: Workbench, request: TrainRequest, correction: Correction, *, purpose: str) -> LocalTraining:
    return train_locally(
        bench.network,
        bench.tensors,
        bench.parts["train"],
        training=bench.protocol.training,
        parameters=bench.spec.parameters(bench.network),
        correction=correction,
        round_=request.task.round,
        rounds=bench.protocol.federation.rounds,
        seed=derive(request.task.seed, purpose, request.task.round, bench.site),
    )


def _privately(bench: Workbench, request: TrainRequest, correction: Correction, noise: float) -> LocalTraining:
    assert bench.protocol.privacy.dp is not None
    return train_privately(
        bench.network,
        bench.tensors,
        bench.parts["train"],
        training=bench.protocol.training,
        dp=bench.protocol.privacy.dp,
        noise_multiplier=noise,
        parameters=bench.spec.parameters(bench.network),
        correction=correction,
        round_=request.task.round,
        rounds=bench.protocol.federation.rounds,
        generator=fresh_generator(),
    )


def _correction(bench: Workbench, vectors: Mapping[str, Vector], kept: Mapping[str, Vector]) -> Correction:
    rule = bench.protocol.federation.client_rule
    parameters = bench.spec.parameters(bench.network)
    if rule.kind == "fedprox":
        return Proximal(parameters, strength=rule.strength)
    if rule.kind == "scaffold":
        server = torch.from_numpy(_control(vectors.get("control"), bench))
        own = torch.from_numpy(_control(kept.get(CONTROL), bench))
        return ControlVariate(parameters, server=server, own=own)
    return rules.plain


def _train_own_model(bench: Workbench, request: TrainRequest, kept: Mapping[str, Vector]) -> Vector:
    """Ditto: the site's own model, trained like the common one but pulled towards the one received; float32 ``[D]``."""
    anchor: list[Tensor] = [parameter.detach().clone() for parameter in bench.spec.parameters(bench.network)]
    if OWN_MODEL in kept:
        bench.spec.load(bench.network, kept[OWN_MODEL])
    correction = Proximal(anchor, strength=bench.protocol.federation.client_rule.strength)
    _train(bench, request, correction, purpose="own model")
    return bench.spec.to_vector(bench.network)


def _control(vector: Vector | None, bench: Workbench) -> Vector:
    """A control variate writable float32 ``[D]``; zero before the first round."""
    if vector is None:
        return np.zeros(bench.spec.size, np.float32)
    if vector.shape != (bench.spec.size,) or not np.isfinite(vector).all():
        raise RefusedError(FailureCode.MODEL_REFUSED, "control variate that is not finite or not of this study's shape")
    return np.array(vector, dtype=np.float32)
