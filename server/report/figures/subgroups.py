"""How the model does in groups of patients."""

from collections.abc import Iterator
from typing import Any

from server.report.figures.looks import WIDTH, look_of, wrapped
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import decimal, interval

Json = dict[str, Any]


def draw(document: Json) -> Iterator[Drawing]:
    """``subgroups``: AUC in each level of each variable that the protocol names, at each site that may tell."""
    levels: dict[tuple[str, str], dict[str, Json]] = {}
    for name, site in document["sites"].items():
        for group in (*site["subgroups"], *site["missing_modality"]):
            auc = group["metrics"] and group["metrics"]["auc"]
            if auc:
                levels.setdefault((group["variable"], group["level"]), {})[name] = group
    if levels:
        yield _subgroups(document, levels)


def _subgroups(document: Json, levels: dict[tuple[str, str], dict[str, Json]]) -> Drawing:
    sites = [name for name in document["sites"] if any(name in groups for groups in levels.values())]
    rows = sum(len(groups) for groups in levels.values())
    variables = len({variable for variable, _ in levels})
    with canvas(WIDTH, 0.95 + 0.16 * rows + 0.14 * len(levels) + 0.3 * variables + 0.17 * ((len(sites) + 1) // 2)) as figure:
        axes = figure.add_subplot()
        y, ticks, words, before, lowest = 0.0, [], [], "", 0.48
        for (variable, level), groups in levels.items():
            if variable != before:
                y += 1.0
                axes.text(
                    0.01,
                    y - 0.75,
                    variable.replace("_", " "),
                    transform=axes.get_yaxis_transform(),
                    weight="bold",
                    size=8.5,
                    va="center",
                )
                before = variable
            first = y
            for name, group in groups.items():
                auc, look = group["metrics"]["auc"], look_of(document, name)
                axes.plot([auc["low"], auc["high"]], [y, y], color=look.colour, linewidth=1.1)
                axes.plot([auc["value"]], [y], look.marker, color=look.colour, markersize=4.5)
                words.append(f"{variable} {level}, {name} ({group['patients']} patients): {interval(auc)}")
                lowest = min(lowest, auc["low"])
                y += 0.62
            ticks.append(((first + y - 0.62) / 2, level.replace("_", " ")))
            y += 0.55
        axes.axvline(0.5, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(xlim=(max(0.0, lowest - 0.02), 1.02), ylim=(y - 0.4, 0.0), xlabel="AUC, with 95% interval")
        axes.set_yticks([place for place, _ in ticks], [wrapped(label, 18) for _, label in ticks])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        looks = {name: look_of(document, name) for name in sites}
        handles = [
            axes.plot([], [], look.marker, color=look.colour, markersize=5, label=wrapped(name))[0]
            for name, look in looks.items()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.2)
        low = min(decimal(group["metrics"]["auc"]["value"]) for groups in levels.values() for group in groups.values())
        return Drawing(figure, "subgroups", "AUC in groups of patients", f"Lowest {low}. " + "; ".join(words))
