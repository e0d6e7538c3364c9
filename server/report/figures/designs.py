"""What joining brings each hospital, and how the model of the others does at a hospital left out: forest plots."""

from collections.abc import Iterator, Sequence
from typing import Any

from server.report.figures.looks import WIDTH, wrapped
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import interval

Json = dict[str, Any]
Row = tuple[str, Json, bool]  # name, number, whether it stands for all sites


def draw(document: Json) -> Iterator[Drawing]:
    """``joining`` and ``leave_one_site_out``, where there is data for them."""
    if "local" in document["comparisons"]:
        local = document["comparisons"]["local"]
        rows = _rows({site: pair["auc"] for site, pair in local["sites"].items()}, local["pooled"]["auc"], "All, within sites")
        if rows:
            label = "AUC, joint model less the site's own, paired"
            yield _forest(rows, name="joining", title="What joining brings each site", label=label, zero=0.0)
    left_out = document["design"]["left_out"]
    if left_out:
        found = {site: row["result"]["metrics"]["auc"] for site, row in left_out["sites"].items() if row["result"]}
        pooled = left_out["heterogeneity"]["auc"]
        rows = _rows(found, pooled and {**pooled, "value": pooled["mean"]}, "Mean over sites")
        if rows:
            yield _forest(
                rows,
                name="leave_one_site_out",
                title="Each site tested by the model of the others",
                label="AUC on all labelled patients of the site left out",
                zero=0.5,
                prediction=(pooled["prediction_low"], pooled["prediction_high"]) if _foreseeable(pooled) else None,
            )


def _foreseeable(pooled: Json | None) -> bool:
    return pooled is not None and pooled["prediction_low"] is not None


def _rows(sites: dict[str, Json | None], pooled: Json | None, name: str) -> list[Row]:
    rows: list[Row] = [(site, number, False) for site, number in sites.items() if number and number["low"] is not None]
    if rows and pooled and pooled["low"] is not None:
        rows.append((name, pooled, True))
    return rows


def _forest(
    rows: Sequence[Row],
    *,
    name: str,
    title: str,
    label: str,
    zero: float,
    prediction: tuple[float, float] | None = None,
) -> Drawing:
    words = "; ".join(f"{site}: {interval(number)}" for site, number, _ in rows)
    with canvas(WIDTH, 0.8 + 0.27 * len(rows)) as figure:
        axes = figure.add_subplot()
        axes.axvline(zero, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
        for y, (_, number, pooled) in enumerate(rows):
            colour = COLOURS["ink"] if pooled else COLOURS["federated"]
            if pooled and prediction:
                axes.plot(list(prediction), [y, y], color=COLOURS["muted"], linewidth=1.0, linestyle=(0, (1.5, 1.2)))
            axes.plot([number["low"], number["high"]], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            axes.plot([number["value"]], [y], "D" if pooled else "o", color=colour, markersize=5.5)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=label)
        axes.set_yticks(range(len(rows)), [wrapped(site) for site, _, _ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        return Drawing(figure, name=name, title=title, description=words)
