"""How sites differ: forest plots with the random-effects mean and its prediction interval."""

from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Polygon

from server.report.figures.looks import WIDTH, look_of, wrapped
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import capital, decimal, interval

Json = dict[str, Any]

MEASURES = {  # of heterogeneity: name on the figure, value that means right (or useless)
    "auc": ("AUC", 0.5),
    "oe_ratio": ("observed / expected", 1.0),
    "calibration_slope": ("calibration slope", 1.0),
    "calibration_intercept": ("calibration intercept", 0.0),
}


def draw(document: Json) -> Iterator[Drawing]:
    """``forest_<measure>`` for each measure that was pooled over sites."""
    for metric, (label, reference) in MEASURES.items():
        found = document["heterogeneity"][metric]
        if found is not None:
            yield _forest(document, metric, found, label=label, reference=reference)


def _forest(document: Json, metric: str, found: Json, *, label: str, reference: float) -> Drawing:
    sites, k = found["sites"], len(found["sites"])
    low, high = _limits(found, metric)
    with canvas(WIDTH, 1.15 + 0.27 * (k + 2)) as figure:
        axes = figure.add_subplot()
        axes.axvline(reference, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
        for y, (name, site) in enumerate(sites.items()):
            look = look_of(document, name)
            _line(axes, site["low"], site["high"], y, limits=(low, high), colour=look.colour)
            axes.plot([site["value"]], [y], look.marker, color=look.colour, markersize=3.5 + 6 * site["weight"] ** 0.5)
            axes.text(1.07, y, _short(site), transform=axes.get_yaxis_transform(), va="center", size=8)
        _summary(axes, found, k, limits=(low, high))
        if metric == "oe_ratio":
            axes.set_xscale("log")
            ticks = [tick for tick in (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0) if low <= tick <= high]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set(xlim=(low, high), ylim=(k + 1.5, -0.6), xlabel=f"{label}, with 95% interval")
        axes.set_yticks(range(k + 2), [*(_label(document, name) for name in sites), "random effects", "prediction interval"])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        words = "; ".join(f"{name} {interval(site)}" for name, site in sites.items())
        mean = {"value": found["mean"], "low": found["low"], "high": found["high"]}
        return Drawing(
            figure,
            f"forest_{metric}",
            f"{capital(label)} by site",
            f"{words}; random-effects mean {interval(mean)}",
        )


def _label(document: Json, name: str) -> str:
    site = document["sites"][name]
    return f"{wrapped(name, 20)} ({site['sample_size']['events']}/{site['patients_tested']})"


def _limits(found: Json, metric: str) -> tuple[float, float]:
    """What the axis spans: all values and the mean's interval; longer intervals are cut, with an arrow."""
    values = [site["value"] for site in found["sites"].values()] + [found["low"], found["high"], found["mean"]]
    ends = [site[end] for site in found["sites"].values() for end in ("low", "high")]
    if metric == "auc":
        return max(0.0, min(0.48, *ends, found["low"]) - 0.02), 1.01
    if metric == "oe_ratio":
        return max(0.1, min(0.45, *values, *ends) * 0.9), min(10.0, max(2.2, *values, *ends) * 1.1)
    reach = max(2.0, max(abs(value) for value in values) * 1.3)
    middle = 1.0 if metric == "calibration_slope" else 0.0
    return middle - reach, middle + reach


def _line(
    axes: Axes, low: float, high: float, y: float, *, limits: tuple[float, float], colour: str, width: float = 1.3
) -> None:
    axes.plot([max(low, limits[0]), min(high, limits[1])], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    for end, edge, marker in ((low, limits[0], "<"), (high, limits[1], ">")):
        if (end < edge) if marker == "<" else (end > edge):
            axes.plot([edge], [y], marker, color=colour, markersize=4, clip_on=False)


def _summary(axes: Axes, found: Json, k: int, *, limits: tuple[float, float]) -> None:
    low, high = max(found["low"], limits[0]), min(found["high"], limits[1])
    axes.axhline(k - 0.5, color=COLOURS["rule"], linewidth=0.8)
    diamond = [(low, k), (found["mean"], k - 0.28), (high, k), (found["mean"], k + 0.28)]
    axes.add_patch(Polygon(diamond, closed=True, color=COLOURS["ink"]))
    axes.text(1.07, k, _short({**found, "value": found["mean"]}), transform=axes.get_yaxis_transform(), va="center", size=8)
    if found["prediction_low"] is None:
        axes.text(1.07, k + 1, "too few sites", transform=axes.get_yaxis_transform(), va="center", size=8)
        return
    ends = found["prediction_low"], found["prediction_high"]
    _line(axes, *ends, k + 1, limits=limits, colour=COLOURS["ink"], width=3)
    axes.text(
        1.04, k + 1, f"{decimal(ends[0])} to {decimal(ends[1])}", transform=axes.get_yaxis_transform(), va="center", size=8
    )


def _short(number: Json) -> str:
    return f"{decimal(number['value'])} ({decimal(number['low'])}, {decimal(number['high'])})"
