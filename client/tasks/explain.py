"""``explain``: why the model in the request says what it says of this site's patients, as sums over them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from client.explaining.contributions import Explainer, Rows
from client.explaining.noise import with_noise
from client.explaining.pictures import outlines_of, picture_rows
from client.explaining.risk import risk_rows
from client.state import SiteState
from client.tasks.train import PERSONAL
from client.tasks.workbench import Workbench
from shared_model.errors import FailureCode, RefusedError
from shared_model.explanation_layout import layout
from shared_model.explanations import ExplanationSummary
from shared_model.inputs import PatientBatch
from shared_model.messages import ExplainRequest, Vector
from shared_model.network import MultimodalNetwork
from shared_model.protocol import StudyProtocol
from shared_model.seeds import derive

BATCH = 64


@dataclass(frozen=True)
class Chosen:
    """Whom a summary is of: int64 indices into the cohort; ``pictured`` are those whose maps are tested."""

    patients: Tensor
    pictured: Tensor


def explain(
    bench: Workbench,
    request: ExplainRequest,
    vectors: Mapping[str, Vector],
    *,
    state: SiteState,
    outlines: Tensor | None,
) -> ExplanationSummary:
    """The summary that the protocol asks for; ``outlines`` uint8 ``[M, H, W]`` are the lesions in the stored pictures.

    Raises:
        RefusedError: the protocol asks for none, or the model is refused.
    """
    protocol = bench.protocol
    if protocol.explanation is None:
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, "a study that explains nothing")
    kept = state.load(request.basis)
    bench.receive(
        vectors.get("weights"), layout=request.layout, normalization=request.normalization, personal=kept.get(PERSONAL)
    )
    summary = summarize(bench, brief=request.brief, outlines=outlines, seed=derive(request.task.seed, "explain", bench.site))
    if protocol.explanation.epsilon is None:
        return summary
    lengths = layout(protocol, brief=request.brief)
    return with_noise(summary, lengths, epsilon=protocol.explanation.epsilon, delta=protocol.explanation.delta)


def summarize(bench: Workbench, *, brief: bool, outlines: Tensor | None, seed: int) -> ExplanationSummary:
    """The summary of the network on ``bench`` as it stands, before noise and disclosure control."""
    chosen = choose(bench, seed=seed)
    explainer = Explainer(bench.network.eval(), bench.protocol, seed)
    rows: list[Rows] = []
    for members in torch.split(chosen.patients, BATCH):
        batch = _batch(bench, members)
        own = explainer.contribution_rows(batch, brief=brief)
        if not brief:
            own |= risk_rows(explainer, batch, bench.scores(members))
        rows.append(own)
    by_patient = ExplanationSummary()
    for own in rows:
        by_patient = by_patient + ExplanationSummary.of(own)
    if brief or not looks_at_pictures(bench) or not len(chosen.pictured):
        return by_patient
    if bench.protocol.explanation is not None and bench.protocol.explanation.epsilon is not None:
        return by_patient  # tests are not told under differential privacy, so none is made
    pictured = _batch(bench, chosen.pictured)
    slots = bench.tensors.slots[chosen.pictured.to(bench.tensors.slots.device)]
    outline = None if outlines is None else outlines_of(outlines.to(slots.device), slots)
    return by_patient + ExplanationSummary.of(picture_rows(explainer, pictured, outline))


def choose(bench: Workbench, *, seed: int) -> Chosen:
    """Patients of the protocol's parts, drawn by ``seed`` where there are more than it asks for, in the cohort's order."""
    settings = bench.protocol.explanation
    assert settings is not None
    everybody = torch.cat([bench.parts[part] for part in settings.parts])
    drawn = everybody[torch.from_numpy(np.random.default_rng(seed).permutation(len(everybody)))]
    drawn = drawn[: settings.patients]
    has = (bench.tensors.views[drawn.to(bench.tensors.views.device)] >= 0).any(dim=1).cpu()
    return Chosen(drawn.sort().values, drawn[has][: settings.pictures].sort().values)


def looks_at_pictures(bench: Workbench) -> bool:
    """Whether the network has an image stream."""
    return isinstance(bench.network, MultimodalNetwork) and bench.network.image_tokens is not None


def with_outlines(protocol: StudyProtocol) -> StudyProtocol:
    """``protocol`` with lesions as a second channel of the pictures."""
    if protocol.images is None or protocol.images.lesion_mask:
        return protocol
    return protocol.model_copy(update={"images": protocol.images.model_copy(update={"lesion_mask": True})})


def _batch(bench: Workbench, members: Tensor) -> PatientBatch:
    device = next(bench.network.parameters()).device
    return bench.tensors.batch(members.to(bench.tensors.label.device)).to(device)
