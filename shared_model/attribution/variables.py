"""What each variable of the table contributes to a patient's logit.

The baseline is the mean training patient: numeric variables at the study's mean, categorical ones at the mean of their
categories' tokens, with the patient's own pictures. A variable is one token, so that a categorical one has one contribution,
and one that was not measured has that of its being unknown.
"""

import numpy as np
import torch
from captum.attr import IntegratedGradients, ShapleyValueSampling
from torch import Tensor

from shared_model.attribution.frozen import Frozen, to_numpy
from shared_model.attribution.shares import Attribution, Floats, contributions
from shared_model.inputs import PatientBatch, categorical_names, numeric_names
from shared_model.network import LogisticNetwork, MultimodalNetwork, PatientNetwork
from shared_model.protocol import StudyProtocol

COMPLETE = 1e-3  # of the contributions' absolute sum: the completeness gap that integrated gradients may have
_STEPS = (12, 24, 48, 96, 192, 384)
_AT_ONCE = 4096  # patients times steps


def variable_names(protocol: StudyProtocol) -> tuple[str, ...]:
    """Variables in the order of their tokens."""
    return (*numeric_names(protocol), *categorical_names(protocol))


def has_table(network: PatientNetwork) -> bool:
    """Whether ``network`` looks at variables at all."""
    return isinstance(network, LogisticNetwork) or (isinstance(network, MultimodalNetwork) and network.table_tokens is not None)


def integrated_gradients(
    network: PatientNetwork, batch: PatientBatch, *, protocol: StudyProtocol, frozen: Frozen | None = None
) -> Attribution:
    """Integrated gradients (Sundararajan 2017) along the straight line from the mean patient's tokens to the patient's.

    Steps are doubled until the completeness gap of every patient is below ``COMPLETE``, or 384 are taken. Exact for a logistic
    network.
    """
    if isinstance(network, LogisticNetwork):
        return logistic_terms(network, batch, protocol=protocol)
    assert isinstance(network, MultimodalNetwork)
    frozen = frozen or Frozen.of(network, batch)
    found = _integrated(frozen, protocol, steps=_STEPS[0])
    for steps in _STEPS[1:]:
        if (found.gap <= COMPLETE).all():
            break
        found = _integrated(frozen, protocol, steps=steps)
    return found


def sampled_shapley(
    network: PatientNetwork,
    batch: PatientBatch,
    *,
    protocol: StudyProtocol,
    seed: int,
    orders: int = 25,
    frozen: Frozen | None = None,
) -> Attribution:
    """Shapley values of the variables, sampled over ``orders`` random orders (Castro 2009); exact for a logistic network.

    They add up to the logit for any number of orders. The global generator stays as it was.
    """
    if isinstance(network, LogisticNetwork):
        return logistic_terms(network, batch, protocol=protocol)
    assert isinstance(network, MultimodalNetwork)
    frozen = frozen or Frozen.of(network, batch)
    mean = _mean(frozen)
    token = torch.arange(mean.shape[1], device=mean.device)[None, :, None]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        method = ShapleyValueSampling(lambda table: frozen.logits(table=table).double())
        values = method.attribute(frozen.table, mean, feature_mask=token, n_samples=orders)
    # Captum gives each element of a token the whole token's contribution.
    return _attribution(frozen, protocol, to_numpy(values[:, :, 0]), mean)


def ablated(frozen: Frozen) -> Floats:
    """How much the logit falls when one variable is put at its mean, all others kept; ``[B, J]``."""
    mean = _mean(frozen)
    with torch.no_grad():
        whole = to_numpy(frozen.logits())
        falls = []
        for place in range(mean.shape[1]):
            table = frozen.table.clone()
            table[:, place] = mean[:, place]
            falls.append(whole - to_numpy(frozen.logits(table=table)))
    return np.stack(falls, axis=1)


def logistic_terms(network: LogisticNetwork, batch: PatientBatch, *, protocol: StudyProtocol) -> Attribution:
    """Coefficient times standardised value, summed over the features of a variable."""
    names = tuple(protocol.variables)
    owner = [
        place
        for place, variable in enumerate(protocol.variables.values())
        for _ in range(1 if variable.kind == "numeric" else len(variable.categories) - 1)
    ]
    with torch.no_grad():
        terms = to_numpy(network.features(batch)) * to_numpy(network.head.weight)  # [B, F]
        bias = float(network.head.bias.item())
    values = terms @ (np.array(owner)[:, None] == np.arange(len(names))).astype(np.float64)  # [B, variables]
    order = [names.index(name) for name in variable_names(protocol)]
    reference = np.full(len(batch), bias)
    return contributions(variable_names(protocol), values[:, order], logit=terms.sum(axis=1) + bias, reference=reference)


def _integrated(frozen: Frozen, protocol: StudyProtocol, *, steps: int) -> Attribution:
    mean, rows = _mean(frozen), torch.arange(len(frozen), device=frozen.table.device)
    method = IntegratedGradients(lambda table, members: frozen.logits(table=table, rows=members), multiply_by_inputs=True)
    parts = []
    for members in torch.split(rows, max(1, _AT_ONCE // steps)):
        table = frozen.table[members].detach().requires_grad_(True)
        found: Tensor = method.attribute(table, mean[members], additional_forward_args=members, n_steps=steps)
        parts.append(to_numpy(found.sum(dim=2)))
    return _attribution(frozen, protocol, np.concatenate(parts), mean)


def _mean(frozen: Frozen) -> Tensor:
    assert frozen.network.table_tokens is not None
    return frozen.network.table_tokens.mean_contents().detach().expand_as(frozen.table)


def _attribution(frozen: Frozen, protocol: StudyProtocol, values: Floats, mean: Tensor) -> Attribution:
    with torch.no_grad():
        logit, reference = to_numpy(frozen.logits()), to_numpy(frozen.logits(table=mean))
    return contributions(variable_names(protocol), values, logit=logit, reference=reference)
