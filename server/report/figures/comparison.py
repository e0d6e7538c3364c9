"""The federated model beside those trained otherwise, at each site."""

from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes

from server.report.figures.looks import WIDTH
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import interval

Json = dict[str, Any]

_ARMS = {  # key in the document: legend, colour, marker
    "federated": ("federated", COLOURS["federated"], "o"),
    "personal": ("federated, personalised", COLOURS["site5"], "v"),
    "local_only": ("this site alone", COLOURS["local"], "D"),
    "central": ("all data in one place", COLOURS["central"], "s"),
    "logistic": ("logistic regression", COLOURS["logistic"], "^"),
}


def draw(document: Json) -> Iterator[Drawing]:
    """``comparison``: AUC at each site by how the model was trained."""
    drawing = _comparison(document)
    if drawing is not None:
        yield drawing


def _comparison(document: Json) -> Drawing | None:
    groups = [(name, _aucs_at(site)) for name, site in document["sites"].items()]
    groups = [(name, aucs) for name, aucs in groups if aucs]
    pooled: dict[str, Json] = {"federated": document["pooled"]}
    pooled |= {kind: document[kind] for kind in ("central", "logistic") if kind in document}
    over_all = {kind: block["metrics"]["auc"] for kind, block in pooled.items() if block["metrics"]["auc"]}
    if over_all:
        groups.append(("All sites together", over_all))
    if not groups:
        return None
    lines = sum(len(aucs) for _, aucs in groups)
    lowest = min(auc["low"] for _, aucs in groups for auc in aucs.values())
    words = "; ".join(
        f"{name}: " + ", ".join(f"{_ARMS[arm][0]} {interval(auc)}" for arm, auc in aucs.items()) for name, aucs in groups
    )
    with canvas(WIDTH, 0.85 + 0.17 * lines + 0.26 * len(groups)) as figure:
        axes = figure.add_subplot()
        y = 0.0
        for number, (name, aucs) in enumerate(groups):
            if number % 2 == 0:
                axes.axhspan(y - 0.7, y + 0.65 + 0.65 * len(aucs), color=COLOURS["rule"], alpha=0.25, linewidth=0)
            axes.text(
                0.01, y, name, transform=axes.get_yaxis_transform(), weight="bold", size=min(8.5, 400 / len(name)), va="center"
            )
            for arm, auc in aucs.items():
                y += 0.65
                _dot(axes, auc, y, arm=arm)
            y += 1.35
        axes.axvline(0.5, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(xlim=(min(0.45, lowest) - 0.02, 1.02), ylim=(y - 0.65, -0.7), xlabel="AUC on test patients, with 95% interval")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        shown = [arm for arm in _ARMS if any(arm in aucs for _, aucs in groups)]
        handles = [axes.plot([], [], _ARMS[arm][2], color=_ARMS[arm][1], markersize=5, label=_ARMS[arm][0])[0] for arm in shown]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.2)
        return Drawing(figure, name="comparison", title="AUC at each site, by how the model was trained", description=words)


def _aucs_at(site: Json) -> dict[str, Json]:
    blocks = {"federated": site, **{arm: site[arm] for arm in _ARMS if arm in site}}
    return {arm: block["metrics"]["auc"] for arm, block in blocks.items() if block["metrics"]["auc"]}


def _dot(axes: Axes, auc: Json, y: float, *, arm: str) -> None:
    _, colour, marker = _ARMS[arm]
    axes.plot([auc["low"], auc["high"]], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
    axes.plot([auc["value"]], [y], marker, color=colour, markersize=5)
