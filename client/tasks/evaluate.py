"""``evaluate``: how the model in the request does on this site's patients."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from client.state import SiteState
from client.tasks import groups
from client.tasks.assessing import Scored, assess
from client.tasks.kept_scores import keep_scores
from client.tasks.scoring import performance
from client.tasks.train import OWN_MODEL, PERSONAL
from client.tasks.workbench import Workbench
from shared_model.messages import EvaluateRequest, Part, Vector
from shared_model.seeds import derive
from shared_model.summaries import Performance

Parts = dict[Part, Performance]
NOBODY = Scored(np.zeros(0), np.zeros(0))


def evaluate(
    bench: Workbench, request: EvaluateRequest, vectors: Mapping[str, Vector], *, state: SiteState, minimum_cell: int
) -> tuple[Parts, Parts]:
    """Performance of the received model, and of the site's own one (Ditto; else empty), on each part with patients.

    On test patients it comes with the whole assessment, in which no count is below ``minimum_cell``. The scores of test
    patients are kept at the site, to compare models by.
    """
    kept = state.load(request.basis)
    bench.receive(
        vectors.get("weights"), layout=request.layout, normalization=request.normalization, personal=kept.get(PERSONAL)
    )
    scored = _score(bench, request.parts)
    common = _parts(bench, request, scored, minimum_cell=minimum_cell)
    personal: Parts = {}
    own: dict[Part, Scored] = {}
    if OWN_MODEL in kept:
        bench.spec.load(bench.network, kept[OWN_MODEL])
        own = _score(bench, request.parts)
        personal = _parts(bench, request, own, minimum_cell=minimum_cell)
    if "test" in common:
        keep_scores(
            state.directory,
            request.task.round,
            patients=bench.parts["test"].cpu().numpy(),
            common=scored["test"].scores,
            own=own["test"].scores if "test" in own else None,
        )
    return common, personal


def _score(bench: Workbench, parts: tuple[Part, ...]) -> dict[Part, Scored]:
    """Scores and outcomes of each of ``parts`` with patients, and of tuning patients, by which thresholds are chosen."""
    wanted: tuple[Part, ...] = ("tune", *(part for part in parts if part != "tune"))
    return {part: Scored(bench.scores(index), bench.labels(index)) for part in wanted if len(index := bench.parts[part])}


def _parts(bench: Workbench, request: EvaluateRequest, scored: Mapping[Part, Scored], *, minimum_cell: int) -> Parts:
    evaluation = bench.protocol.evaluation
    found = {
        part: performance(scored[part].scores, scored[part].labels, evaluation=evaluation)
        for part in request.parts
        if part in scored
    }
    if "test" in found:
        index = bench.parts["test"].cpu()
        assessment = assess(
            scored["test"],
            scored.get("tune", NOBODY),
            evaluation=evaluation,
            subgroups=groups.subgroups(bench.tensors, index, bench.protocol),
            modalities={name: mask[index.numpy()] for name, mask in groups.modalities(bench.tensors, bench.protocol).items()},
            minimum_cell=minimum_cell,
            seed=derive(request.task.seed, "bootstrap", request.task.round, bench.site),
        )
        found["test"] = replace(found["test"], assessment=assessment)
    return found
