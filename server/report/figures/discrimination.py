"""How well the model ranks patients: ROC curves."""

from collections.abc import Iterator
from typing import Any

from server.report.figures.looks import wrapped
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import decimal, interval

Json = dict[str, Any]


def draw(document: Json) -> Iterator[Drawing]:
    """``roc_all_sites``, and ``roc_<site>`` for each site with an AUC."""
    for site in (None, *document["sites"]):
        drawing = _roc(document, site)
        if drawing is not None:
            yield drawing


def _roc(document: Json, site: str | None) -> Drawing | None:
    source = document["pooled"] if site is None else document["sites"][site]
    curve, auc, title = source["roc"], source["metrics"]["auc"], site or "All sites together"
    if curve is None or auc is None:
        return None
    false, true = curve["false_positive_rate"], curve["true_positive_rate"]
    heading = f"ROC curve, {title}"
    with canvas(2.5, 2.7) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=COLOURS["rule"], linewidth=1)
        axes.fill_between(false, true, color=COLOURS["federated"], alpha=0.08, linewidth=0)
        axes.plot(false, true, color=COLOURS["federated"], linewidth=1.8)
        axes.text(0.97, 0.13, f"AUC {decimal(auc['value'])}", ha="right", weight="bold")
        axes.text(0.97, 0.04, f"{decimal(auc['low'])} to {decimal(auc['high'])}", ha="right", size=8, color=COLOURS["muted"])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="1 − specificity", ylabel="sensitivity")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_title(wrapped(title), x=-0.02)
        return Drawing(figure, name=f"roc_{site or 'all_sites'}", title=heading, description=f"AUC {interval(auc)}")
