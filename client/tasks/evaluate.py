"""``evaluate``: how the model in the request does on this site's patients."""

from collections.abc import Mapping

from client.state import SiteState
from client.tasks.scoring import performance
from client.tasks.train import OWN_MODEL, PERSONAL
from client.tasks.workbench import Workbench
from shared_model.messages import EvaluateRequest, Part, Vector
from shared_model.summaries import Performance

Parts = dict[Part, Performance]


def evaluate(
    bench: Workbench, request: EvaluateRequest, vectors: Mapping[str, Vector], *, state: SiteState
) -> tuple[Parts, Parts]:
    """Performance of the received model, and of the site's own one (Ditto; else empty), on each part with patients."""
    kept = state.load(request.basis)
    bench.receive(
        vectors.get("weights"), layout=request.layout, normalization=request.normalization, personal=kept.get(PERSONAL)
    )
    common = _parts(bench, request.parts)
    if OWN_MODEL not in kept:
        return common, {}
    bench.spec.load(bench.network, kept[OWN_MODEL])
    return common, _parts(bench, request.parts)


def _parts(bench: Workbench, parts: tuple[Part, ...]) -> Parts:
    return {
        part: performance(bench.scores(index), bench.labels(index), evaluation=bench.protocol.evaluation)
        for part in parts
        if len(index := bench.parts[part])
    }
