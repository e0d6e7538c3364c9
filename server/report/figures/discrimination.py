"""How well the model ranks patients: ROC curves."""

from collections.abc import Iterator
from typing import Any

from server.report.figures.looks import SMALL, sample, unit_square
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import decimal, interval

Json = dict[str, Any]


def draw(document: Json) -> Iterator[Drawing]:
    """``roc_all_sites``, and ``roc_<site>`` for each site with an AUC."""
    blocks = {None: document["pooled"], **document["sites"]}
    for site, block in blocks.items():
        if block["roc"] is not None and block["metrics"]["auc"] is not None:
            yield _roc(site, block)


def _roc(site: str | None, block: Json) -> Drawing:
    curve, auc, title = block["roc"], block["metrics"]["auc"], site or "All sites together"
    false, true = curve["false_positive_rate"], curve["true_positive_rate"]
    with canvas(*SMALL) as figure:
        axes = figure.add_subplot()
        axes.fill_between(false, true, color=COLOURS["federated"], alpha=0.08, linewidth=0)
        axes.plot(false, true, color=COLOURS["federated"], linewidth=1.8)
        axes.text(0.97, 0.21, f"AUC {decimal(auc['value'])}", ha="right", weight="bold")
        axes.text(0.97, 0.12, f"{decimal(auc['low'])} to {decimal(auc['high'])}", ha="right", size=8, color=COLOURS["muted"])
        axes.text(0.97, 0.03, sample(block), ha="right", size=8, color=COLOURS["muted"])
        unit_square(axes, xlabel="1 − specificity", ylabel="sensitivity", title=title)
        return Drawing(
            figure,
            name=f"roc_{site or 'all_sites'}",
            title=f"ROC curve, {title}",
            description=f"AUC {interval(auc)}, {sample(block)}",
        )
