"""The course of the training: what each round brought, and which site took part."""

from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from server.report.figures.looks import WIDTH, look_of, wrapped
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import decimal, ranges

Json = dict[str, Any]

_CELLS: dict[str, Json] = {
    "counted": {"marker": "s", "linestyle": "none", "color": COLOURS["federated"]},
    "failed": {"marker": "X", "linestyle": "none", "color": COLOURS["local"]},
    "no part": {"marker": "s", "linestyle": "none", "markerfacecolor": "none", "markeredgecolor": COLOURS["muted"]},
}
_SELECTION = {"auc": "AUC", "log_loss": "Log loss, negated,", "brier": "Brier score, negated,"}


def draw(document: Json) -> Iterator[Drawing]:
    """``convergence`` and ``participation``, once a round is over."""
    if document["rounds"]:
        if _judged(document) or losses_told(document):
            yield _convergence(document)
        yield _participation(document)


def losses_told(document: Json) -> bool:
    """Whether any training loss was told; with differential privacy none is."""
    told = [row["loss"] for row in document["rounds"]]
    told += [site["loss"] for row in document["rounds"] for site in row["sites"].values()]
    return any(loss is not None for loss in told)


def _judged(document: Json) -> list[tuple[int, float]]:
    """Each model that was judged, by its round, with the metric of selection."""
    if document["study"]["selection"] not in _SELECTION:
        return []
    return [(row["round"] - 1, row["selection"]) for row in document["rounds"] if row["selection"] is not None]


def _convergence(document: Json) -> Drawing:
    rounds, kind = document["rounds"], document["study"]["selection"]
    best = document["run"]["best_round"]
    judged, told = _judged(document), losses_told(document)
    legend_rows = 1 + len(document["sites"]) // 2 if told else 0
    with canvas(WIDTH, (3.9 if judged and told else 2.2) + 0.17 * legend_rows) as figure:
        panels = list(figure.subplots(2 if judged and told else 1, 1, sharex=True, squeeze=False)[:, 0])
        panels[-1].set_xlabel("rounds of training")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        for scores in panels[:1] if judged else []:
            scores.plot(*zip(*judged, strict=True), color=COLOURS["federated"], marker="o", markersize=3, linewidth=1.6)
            scores.axvline(best, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (2, 2)))
            side = "right" if best > 0.6 * rounds[-1]["round"] else "left"
            scores.text(
                best,
                0.04,
                f" best: round {best} ",
                transform=scores.get_xaxis_transform(),
                size=8,
                color=COLOURS["muted"],
                ha=side,
            )
            scores.set_title(f"{_SELECTION[kind]} on tuning patients of all sites")
            scores.grid(axis="y")
        if told:
            _losses(panels[-1], document)
            figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower left", ncols=2, columnspacing=1.2)
        words = f"Best model after round {best}. " + "; ".join(
            f"round {row['round']}: loss {decimal(row['loss'], 3)}, selection {decimal(row['selection'], 3)}" for row in rounds
        )
        return Drawing(figure, name="convergence", title="Selection metric and training loss by round", description=words)


def _losses(axes: Axes, document: Json) -> None:
    rounds = document["rounds"]
    for name in document["sites"]:
        points = [(row["round"], row["sites"][name]["loss"]) for row in rounds if name in row["sites"]]
        points = [point for point in points if point[1] is not None]
        if points:
            look, every = look_of(document, name), max(1, len(points) // 6)
            style = {"color": look.colour, "linestyle": look.dash, "marker": look.marker, "markevery": every}
            axes.plot(*zip(*points, strict=True), **style, markersize=3.5, linewidth=0.9, label=wrapped(name))
    means = [(row["round"], row["loss"]) for row in rounds if row["loss"] is not None]
    if means:
        axes.plot(*zip(*means, strict=True), color=COLOURS["ink"], linewidth=2, label="mean over patients")
    axes.set_title("Training loss")
    axes.grid(axis="y")


def _participation(document: Json) -> Drawing:
    sites, rounds = document["sites"], [row["round"] for row in document["rounds"]]
    side = max(1.5, min(8.0, 190.0 / len(rounds)))
    with canvas(WIDTH, 0.95 + 0.24 * len(sites)) as figure:
        axes = figure.add_subplot()
        for y, site in enumerate(sites.values()):
            counted, failed = set(site["participated"]), {f["round"] for f in site["failures"] if f["phase"] == "train"}
            neither = set(rounds) - counted - failed
            for group, look in ((counted, "counted"), (failed - counted, "failed"), (neither, "no part")):
                axes.plot(sorted(group), [y] * len(group), markersize=side, **_CELLS[look])
        axes.set(xlim=(rounds[0] - 0.7, rounds[-1] + 0.7), ylim=(len(sites) - 0.4, -0.6), xlabel="round")
        axes.set_yticks(range(len(sites)), [wrapped(name) for name in sites])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        keys = [axes.plot([], [], label=look, markersize=7, **style)[0] for look, style in _CELLS.items()]
        figure.legend(handles=keys, loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2)
        words = "; ".join(
            f"{name}: " + (f"counted in rounds {ranges(site['participated'])}" if site["participated"] else "no round")
            for name, site in sites.items()
        )
        return Drawing(figure, name="participation", title="Which site took part in which round", description=words)
