"""``evaluate``: how the model in the request does on this site's patients."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from client.state import SiteState
from client.tasks import groups
from client.tasks.assessing import Scored, assess
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

    On test patients it comes with the whole assessment, in which no count is below ``minimum_cell``.
    """
    kept = state.load(request.basis)
    bench.receive(
        vectors.get("weights"), layout=request.layout, normalization=request.normalization, personal=kept.get(PERSONAL)
    )
    common = _parts(bench, request, minimum_cell=minimum_cell)
    if OWN_MODEL not in kept:
        return common, {}
    bench.spec.load(bench.network, kept[OWN_MODEL])
    return common, _parts(bench, request, minimum_cell=minimum_cell)


def _parts(bench: Workbench, request: EvaluateRequest, *, minimum_cell: int) -> Parts:
    evaluation = bench.protocol.evaluation
    scored = {
        part: Scored(bench.scores(index), bench.labels(index))
        for part in {*request.parts, "tune"}
        if len(index := bench.parts[part])
    }
    found = {
        part: performance(scored[part].scores, scored[part].labels, evaluation=evaluation)
        for part in request.parts
        if part in scored
    }
    if "test" in found:
        index = bench.parts["test"]
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
