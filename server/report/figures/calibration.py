"""Whether predicted probabilities mean what they say: calibration curves over risks, and what local correction changes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from server.report.figures.looks import WIDTH, sample, unit_square, wrapped
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import decimal, interval

Json = dict[str, Any]

_MEASURES = {"ici": ("mean absolute error of the curve (ICI)", 0.0), "calibration_slope": ("calibration slope", 1.0)}


def draw(document: Json) -> Iterator[Drawing]:
    """``calibration_all_sites``, ``calibration_<site>``, and ``recalibration`` where sites have corrected locally."""
    for site, block in {None: document["pooled"], **document["sites"]}.items():
        if block["calibration_curve"] is not None:
            yield _calibration(site, block)
    corrected = {name: site for name, site in document["sites"].items() if _after(site) is not None}
    if corrected:
        yield _recalibration(corrected)


def _after(site: Json) -> Json | None:
    found: Json | None = site["recalibrated"]["logistic"] or site["recalibrated"]["intercept"]
    return found


def _calibration(site: str | None, block: Json) -> Drawing:
    title, curve, numbers = site or "All sites together", block["calibration_curve"], block["metrics"]
    after = _after(block) if site else None
    with canvas(2.5, 3.3) as figure:
        axes, risks = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        unit_square(axes, xlabel="", ylabel="observed share", title=title)
        if after and after["calibration_curve"]:
            corrected = after["calibration_curve"]
            axes.plot(
                corrected["predicted"], corrected["observed"], color=COLOURS["central"], linewidth=1.4, linestyle=(0, (4, 1.5))
            )
            axes.text(1.0, 0.0, "- - corrected here", ha="right", size=8, color=COLOURS["central"])
        _curve(axes, curve, smooth=site is not None)
        facts = [
            (label, numbers[name]) for name, label in (("oe_ratio", "O/E"), ("calibration_slope", "slope")) if numbers[name]
        ]
        for row, (label, number) in enumerate(facts):
            axes.text(0.01, 0.93 - 0.09 * row, f"{label} {decimal(number['value'])}", size=8.5, weight="bold")
        _risks(risks, block["risk_distribution"])
        risks.set_title(sample(block), size=8, color=COLOURS["muted"], weight="normal")
        words = ", ".join(f"{label} {interval(number)}" for label, number in facts)
        points = "; ".join(
            f"predicted {decimal(p)}, observed {decimal(o)}" for p, o in zip(curve["predicted"], curve["observed"], strict=True)
        )
        return Drawing(
            figure,
            name=f"calibration_{site or 'all_sites'}",
            title=f"Calibration, {title}",
            description=f"{words}. {sample(block)}. {points}",
        )


def _curve(axes: Axes, curve: Json, *, smooth: bool) -> None:
    predicted, observed = curve["predicted"], curve["observed"]
    banded = [(p, low, high) for p, low, high in zip(predicted, curve["low"], curve["high"], strict=True) if low is not None]
    if smooth and banded:
        x, low, high = (np.array(column) for column in zip(*banded, strict=True))
        axes.fill_between(x, low, high, color=COLOURS["federated"], alpha=0.15, linewidth=0)
    elif banded:
        for p, low, high in banded:
            axes.plot([p, p], [low, high], color=COLOURS["federated"], linewidth=0.9)
    axes.plot(predicted, observed, color=COLOURS["federated"], linewidth=1.8, marker="o", markersize=3)


def _risks(axes: Axes, distribution: Json | None) -> None:
    """Patients by predicted probability: with the outcome above the line, without it below."""
    if distribution is None:
        axes.set_visible(False)
        return
    edges = np.array(distribution["edges"])
    width = 0.86 * np.diff(edges)
    middle = 0.5 * (edges[1:] + edges[:-1])
    axes.bar(middle, distribution["positives"], width, color=COLOURS["local"])
    axes.bar(middle, [-n for n in distribution["negatives"]], width, color=COLOURS["muted"])
    axes.axhline(0, color=COLOURS["ink"], linewidth=0.6)
    axes.set(xlabel="predicted probability", ylabel="patients")
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")


def _recalibration(sites: dict[str, Json]) -> Drawing:
    lines = len(sites)
    with canvas(WIDTH, 2 * (0.75 + 0.3 * lines) + 0.4) as figure:
        words = []
        panels = figure.subplots(2, 1)
        for axes, (metric, (label, ideal)) in zip(panels, _MEASURES.items(), strict=True):
            axes.axvline(ideal, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
            for y, (name, site) in enumerate(sites.items()):
                after = _after(site)
                before, then = site["metrics"][metric], after and after["metrics"][metric]
                if before and then:
                    axes.plot([before["value"], then["value"]], [y, y], color=COLOURS["muted"], linewidth=1)
                    axes.plot([before["value"]], [y], "o", color=COLOURS["federated"], markersize=5.5)
                    axes.plot([then["value"]], [y], "D", color=COLOURS["central"], markersize=5)
                    words.append(f"{name}, {label}: {decimal(before['value'])} before, {decimal(then['value'])} after")
            axes.set(ylim=(lines - 0.4, -0.6), xlabel=f"{label}; {ideal:g} is right")
            axes.set_yticks(range(lines), [wrapped(name) for name in sites])
            axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")
        keys = [
            panels[0].plot([], [], marker, color=COLOURS[colour], markersize=5.5, label=text)[0]
            for marker, colour, text in (("o", "federated", "as trained"), ("D", "central", "corrected at the site"))
        ]
        figure.legend(handles=keys, loc="outside upper left", ncols=2, handletextpad=0.2)
        return Drawing(figure, "recalibration", "Calibration before and after correction at each site", "; ".join(words))
