"""``evaluate``: how the model in the request does on this site's patients."""

from collections.abc import Mapping

from client.state import SiteState
from client.tasks.kept_scores import COMMON, OWN, Floats, keep_scores
from client.tasks.scoring import performance
from client.tasks.train import OWN_MODEL, PERSONAL
from client.tasks.workbench import Workbench
from shared_model.messages import EvaluateRequest, Part, Vector
from shared_model.summaries import Performance

Parts = dict[Part, Performance]
Scores = dict[str, dict[Part, Floats]]


def evaluate(
    bench: Workbench, request: EvaluateRequest, vectors: Mapping[str, Vector], *, state: SiteState
) -> tuple[Parts, Parts]:
    """Performance of the received model, and of the site's own one (Ditto; else empty), on each part with patients.

    The scores of test patients are kept at the site, to compare models by.
    """
    kept = state.load(request.basis)
    bench.receive(
        vectors.get("weights"), layout=request.layout, normalization=request.normalization, personal=kept.get(PERSONAL)
    )
    scores: Scores = {}
    common, scores[COMMON] = _parts(bench, request.parts)
    personal: Parts = {}
    if OWN_MODEL in kept:
        bench.spec.load(bench.network, kept[OWN_MODEL])
        personal, scores[OWN] = _parts(bench, request.parts)
    if "test" in common:
        tested = bench.parts["test"].cpu().numpy()
        keep_scores(
            state.directory,
            request.task.round,
            patients=tested,
            common=scores[COMMON]["test"],
            own=scores[OWN]["test"] if OWN in scores else None,
        )
    return common, personal


def _parts(bench: Workbench, parts: tuple[Part, ...]) -> tuple[Parts, dict[Part, Floats]]:
    scores = {part: bench.scores(index) for part in parts if len(index := bench.parts[part])}
    found = {
        part: performance(own, bench.labels(bench.parts[part]), evaluation=bench.protocol.evaluation)
        for part, own in scores.items()
    }
    return found, scores
