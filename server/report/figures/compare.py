"""Runs side by side, site by site."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from server.report.figures.looks import WIDTH, shortened
from server.report.svg import COLOURS, SITE_COLOURS, Drawing, canvas
from server.report.wording import interval

if TYPE_CHECKING:
    from server.report.compare import Run

Json = dict[str, Any]

_MARKERS = ("o", "D", "s", "^", "v", "P", "X")


def draw(runs: "Sequence[Run]") -> Iterator[Drawing]:
    """``auc``: the AUC of every run at every site."""
    groups: dict[str, list[tuple[int, Json]]] = {}
    for number, run in enumerate(runs):
        for name, block in {**run.document["sites"], "All sites together": run.document["pooled"]}.items():
            if block["metrics"]["auc"]:
                groups.setdefault(name, []).append((number, block["metrics"]["auc"]))
    if groups:
        yield _auc(runs, groups)


def _auc(runs: "Sequence[Run]", groups: dict[str, list[tuple[int, Json]]]) -> Drawing:
    lines = sum(map(len, groups.values()))
    with canvas(WIDTH, 0.75 + 0.17 * lines + 0.26 * len(groups) + 0.18 * len(runs)) as figure:
        axes = figure.add_subplot()
        y, words, lowest = 0.0, [], 0.45
        for place, (name, numbers) in enumerate(groups.items()):
            if place % 2 == 0:
                axes.axhspan(y - 0.7, y + 0.65 + 0.65 * len(numbers), color=COLOURS["rule"], alpha=0.25, linewidth=0)
            axes.text(
                0.01, y, name, transform=axes.get_yaxis_transform(), weight="bold", size=min(8.5, 400 / len(name)), va="center"
            )
            for number, auc in numbers:
                y += 0.65
                colour = SITE_COLOURS[number % len(SITE_COLOURS)]
                axes.plot([auc["low"], auc["high"]], [y, y], color=colour, linewidth=1.3)
                axes.plot([auc["value"]], [y], _MARKERS[number % len(_MARKERS)], color=colour, markersize=5)
                words.append(f"{name}, {runs[number].label}: {interval(auc)}")
                lowest = min(lowest, auc["low"])
            y += 1.35
        axes.axvline(0.5, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(xlim=(lowest - 0.02, 1.02), ylim=(y - 0.65, -0.7), xlabel="AUC on test patients, with 95% interval")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        handles = [
            axes.plot(
                [], [], _MARKERS[i % len(_MARKERS)], color=SITE_COLOURS[i % len(SITE_COLOURS)], label=shortened(run.label, 40)
            )[0]
            for i, run in enumerate(runs)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=1, handletextpad=0.2)
        return Drawing(figure, "auc", "AUC of each run at each site", "; ".join(words))
