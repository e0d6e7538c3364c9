"""Whether acting on the model does more good than harm: decision curves."""

from collections.abc import Iterator
from typing import Any

from server.report.figures.looks import SMALL, sample, wrapped
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import decimal

Json = dict[str, Any]

_HIGHEST = 0.6  # thresholds above are shown where the protocol has one


def draw(document: Json) -> Iterator[Drawing]:
    """``decision_all_sites``, and ``decision_<site>`` for each site with patients of both outcomes."""
    for site, block in {None: document["pooled"], **document["sites"]}.items():
        if block["decision_curve"] is not None and min(block["sample_size"]["events"], block["sample_size"]["nonevents"]) > 0:
            yield _decision(site, block, document["study"]["thresholds"])


def _decision(site: str | None, block: Json, thresholds: list[float]) -> Drawing:
    curve, title = block["decision_curve"], site or "All sites together"
    highest = min(0.99, max([_HIGHEST, *(threshold + 0.05 for threshold in thresholds)]))
    shown = [i for i, threshold in enumerate(curve["threshold"]) if threshold <= highest]
    x, model, everybody = ([curve[key][i] for i in shown] for key in ("threshold", "model", "treat_all"))
    bound = [curve["error_bound"][i] for i in shown]
    top = max(*model, *everybody, 0.01)
    with canvas(*SMALL) as figure:
        axes = figure.add_subplot()
        axes.axhline(0, color=COLOURS["ink"], linewidth=1, label="treat nobody")
        axes.plot(x, everybody, color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 1.5)), label="treat all")
        if max(bound) > 0:
            low, high = ([m + sign * b for m, b in zip(model, bound, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=COLOURS["federated"], alpha=0.15, linewidth=0)
        axes.plot(x, model, color=COLOURS["federated"], linewidth=1.8, label="model")
        for threshold in thresholds:
            axes.axvline(threshold, ymax=0.04, color=COLOURS["ink"], linewidth=1)
        axes.set(xlim=(0, highest), ylim=(-0.25 * top, 1.25 * top), xlabel="threshold probability", ylabel="net benefit")
        axes.set_title(wrapped(title, 20), x=-0.02)
        legend = axes.legend(loc="upper right", handlelength=1.6, borderaxespad=0.1, title=sample(block), title_fontsize=8)
        legend.get_title().set_color(COLOURS["muted"])
        words = "; ".join(
            f"at {threshold:g}: model {decimal(m, 3)}, treat all {decimal(a, 3)}"
            for threshold, m, a in zip(x, model, everybody, strict=True)
            if round(100 * threshold) % 10 == 0
        )
        return Drawing(
            figure, f"decision_{site or 'all_sites'}", f"Decision curve, {title}", f"Net benefit {words}. {sample(block)}"
        )
