"""Why the model says what it says, over all sites: kinds of information, variables, and risk by where the lesion lies."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from server.report.figures.looks import WIDTH, wrapped
from server.report.svg import COLOURS, SITE_COLOURS, Drawing, canvas
from server.report.wording import decimal, percent

Json = dict[str, Any]

_MOST = 12  # variables in a figure
_CURVES = 6
_MARKS = "oDs^vP*"


def draw(document: Json) -> Iterator[Drawing]:
    """``explanation_modalities``, ``explanation_variables``, ``explanation_curves``, ``explanation_risk``."""
    explained = document.get("explanation")
    if explained is None:
        return
    if len(explained["modality_share"]) > 1:
        yield _modalities(explained)
    if explained["variables"]:
        yield _variables(explained)
        if any(len(row["curve"]) > 1 for row in explained["variables"]):
            yield _curves(explained)
    if explained["risk"] and any(cell["observed"] for cell in explained["risk"]["by_distance"]):
        yield _risk(explained["risk"])


def _modalities(explained: Json) -> Drawing:
    shares = explained["modality_share"]
    with canvas(WIDTH, 0.95 + 0.34 * len(shares)) as figure:
        axes = figure.add_subplot()
        for y, share in enumerate(shares.values()):
            axes.barh(y, share["value"], height=0.62, color=COLOURS["federated"], alpha=0.25)
            if share["low"] is not None:
                axes.plot([share["low"], share["high"]], [y, y], color=COLOURS["federated"], linewidth=1.6)
        _sites(axes, explained, lambda site, name: site["modality_share"].get(name), list(shares))
        axes.set_yticks(range(len(shares)), [wrapped(name) for name in shares])
        axes.set(ylim=(len(shares) - 0.5, -0.5), xlim=(0, None), xlabel="share of what moves the model's log odds")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, columnspacing=1.0, handletextpad=0.2
        )
        words = "; ".join(f"{name} {percent(share['value'])}" for name, share in shares.items())
        return Drawing(figure, "explanation_modalities", "Share of each kind of information", words)


def _variables(explained: Json) -> Drawing:
    rows = explained["variables"][:_MOST]
    names = [row["name"] for row in rows]
    with canvas(WIDTH, 0.95 + 0.27 * len(rows)) as figure:
        axes = figure.add_subplot()
        axes.barh(range(len(rows)), [row["mean_absolute"] for row in rows], height=0.62, color=COLOURS["federated"], alpha=0.25)
        _sites(axes, explained, lambda site, name: (site["importance"] or {}).get(name), names)
        axes.set_yticks(range(len(rows)), [wrapped(name) for name in names])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, None), xlabel="mean size of the contribution, log odds")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, columnspacing=1.0, handletextpad=0.2
        )
        words = "; ".join(f"{row['name']} {decimal(row['mean_absolute'])}" for row in rows)
        return Drawing(figure, "explanation_variables", "Mean size of each variable's contribution", words)


def _sites(axes: Any, explained: Json, value: Any, names: list[str]) -> None:
    for number, (site, own) in enumerate(explained["by_site"].items()):
        points = [(found, y) for y, name in enumerate(names) if (found := value(own, name)) is not None]
        if points:
            look = {"color": SITE_COLOURS[number % 7], "marker": _MARKS[number % 7], "linestyle": "none", "markersize": 4}
            axes.plot(*zip(*points, strict=True), label=wrapped(site), **look)


def _curves(explained: Json) -> Drawing:
    rows = [row for row in explained["variables"] if len(row["curve"]) > 1][:_CURVES]
    lines = -(-len(rows) // 2)
    with canvas(WIDTH, 0.4 + 1.55 * lines) as figure:
        panels = figure.subplots(lines, 2, sharey=True, squeeze=False).ravel()
        for panel, row in zip(panels, rows, strict=False):
            means = [point["mean"] for point in row["curve"]]
            colours = [COLOURS["local"] if mean > 0 else COLOURS["federated"] for mean in means]
            panel.bar(range(len(means)), means, color=colours, alpha=0.75, width=0.7)
            panel.axhline(0.0, color=COLOURS["muted"], linewidth=0.8)
            labels = [point["at"].replace(" SD", "").replace("not measured", "?").replace("_", " ") for point in row["curve"]]
            panel.set_xticks(range(len(labels)), labels, rotation=30, ha="right", size=7)
            panel.set_title(row["name"].replace("_", " "), size=8.5)
            panel.grid(axis="y")
        for panel in panels[len(rows) :]:
            panel.set_visible(False)
        figure.supylabel("mean contribution, log odds", size=8.5)
        words = "; ".join(
            f"{row['name']}: " + ", ".join(f"{point['at']} {decimal(point['mean'])}" for point in row["curve"]) for row in rows
        )
        return Drawing(figure, "explanation_curves", "Mean contribution by value", words)


def _risk(risk: Json) -> Drawing:
    groups = [("distance", risk["by_distance"]), ("position", risk["by_position"])]
    with canvas(WIDTH, 2.7) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (which, cells) in zip(panels, groups, strict=True):
            for x, cell in enumerate(cells):
                if cell["observed"] is None:
                    panel.text(x, 0.04, "not told", rotation=90, ha="center", size=7, color=COLOURS["muted"])
                    continue
                observed = cell["observed"]
                panel.plot([x, x], [observed["low"], observed["high"]], color=COLOURS["ink"], linewidth=1.4)
                panel.plot(x, observed["value"], "o", color=COLOURS["ink"], markersize=5, label="observed" if not x else None)
                panel.plot(
                    x + 0.18, cell["predicted"], "D", color=COLOURS["local"], markersize=4, label="predicted" if not x else None
                )
            panel.set_xticks(
                range(len(cells)), [cell["label"].replace("_", " ") for cell in cells], rotation=30, ha="right", size=7.5
            )
            panel.set_title(risk[which].replace("_", " "))
            panel.set(xlim=(-0.5, len(cells) - 0.3), ylim=(0, 1))
            panel.set_yticks(np.linspace(0, 1, 5), ["0 %", "25 %", "50 %", "75 %", "100 %"])
            panel.grid(axis="y")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, handletextpad=0.2)
        words = "; ".join(
            f"{cell['label']}: {percent(cell['observed']['value'])} observed, {percent(cell['predicted'])} predicted"
            for _, cells in groups
            for cell in cells
            if cell["observed"]
        )
        return Drawing(figure, "explanation_risk", "Observed and predicted risk by distance and position", words)
