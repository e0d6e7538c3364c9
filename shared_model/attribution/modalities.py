"""What each modality contributes to a patient's logit: exact Shapley values.

A modality left out is what the network itself takes a patient without it for: its summary token says "absent" and its other
tokens are masked, as modality dropout has taught it. So the baseline is a patient of whom nothing is known, and a modality
that a patient has not got contributes exactly 0. A logistic network has no such token; there, a group left out is at its mean.
"""

from itertools import product
from math import factorial

import numpy as np
import torch

from shared_model.attribution.frozen import Frozen, to_numpy
from shared_model.attribution.shares import Attribution, Floats, contributions
from shared_model.attribution.variables import logistic_terms
from shared_model.inputs import PatientBatch
from shared_model.network import LogisticNetwork, MultimodalNetwork, PatientNetwork
from shared_model.protocol import StudyProtocol

MOST = 12  # modalities: 4096 coalitions


def modality_shapley(
    network: PatientNetwork, batch: PatientBatch, *, protocol: StudyProtocol, frozen: Frozen | None = None
) -> Attribution:
    """Shapley values of the network's modalities over all 2^A coalitions; they add up to the logit to float64's rounding.

    Raises:
        ValueError: more than ``MOST`` modalities.
    """
    if isinstance(network, LogisticNetwork):
        terms = logistic_terms(network, batch, protocol=protocol)
        member = [[protocol.variables[name].group == group for name in terms.names] for group in protocol.groups]
        values = terms.values @ np.array(member, dtype=np.float64).T
        return contributions(protocol.groups, values, logit=terms.logit, reference=terms.reference)
    assert isinstance(network, MultimodalNetwork)
    names = network.modalities
    if len(names) > MOST:
        raise ValueError(f"{len(names)} modalities have too many coalitions; {MOST} at most")
    frozen = frozen or Frozen.of(network, batch)
    worth = _worth(frozen, len(names))
    everything, nothing = (True,) * len(names), (False,) * len(names)
    values = np.stack([_shapley(worth, place, len(names)) for place in range(len(names))], axis=1)
    return contributions(names, values, logit=worth[everything], reference=worth[nothing])


def left_out(frozen: Frozen) -> Floats:
    """How much the logit falls when one modality is left out, all others kept, ``[B, A]``: the ablation of each."""
    with torch.no_grad():
        whole = to_numpy(frozen.logits())
        falls = []
        for place in range(frozen.present.shape[1]):
            kept = frozen.present.clone()
            kept[:, place] = False
            falls.append(whole - to_numpy(frozen.logits(modalities=kept)))
    return np.stack(falls, axis=1)


@torch.no_grad()
def _worth(frozen: Frozen, count: int) -> dict[tuple[bool, ...], Floats]:
    """Logits of every coalition, ``[B]`` each."""
    return {
        coalition: to_numpy(frozen.logits(modalities=frozen.present & torch.tensor(coalition, device=frozen.present.device)))
        for coalition in product((False, True), repeat=count)
    }


def _shapley(worth: dict[tuple[bool, ...], Floats], place: int, count: int) -> Floats:
    """Mean over all orders of what modality ``place`` adds to those before it; ``[B]``."""
    total = np.zeros_like(next(iter(worth.values())))
    for coalition, without in worth.items():
        if not coalition[place]:
            size = sum(coalition)
            share = factorial(size) * factorial(count - size - 1) / factorial(count)
            total += share * (worth[(*coalition[:place], True, *coalition[place + 1 :])] - without)
    return total
