"""The report's figures, each an SVG file with its text alternative."""

import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from server.report.svg import COLOURS, SITE_COLOURS, canvas, to_svg
from server.report.wording import decimal, interval, ranges

Json = dict[str, Any]

_ARMS = {  # key in the document: legend, colour, marker
    "federated": ("federated", COLOURS["federated"], "o"),
    "personal": ("federated, personalised", COLOURS["site5"], "v"),
    "local_only": ("this site alone", COLOURS["local"], "D"),
    "central": ("all data in one place", COLOURS["central"], "s"),
    "logistic": ("logistic regression", COLOURS["logistic"], "^"),
}
_CELLS: dict[str, Json] = {
    "counted": {"marker": "s", "linestyle": "none", "color": COLOURS["federated"]},
    "failed": {"marker": "X", "linestyle": "none", "color": COLOURS["local"]},
    "no part": {"marker": "s", "linestyle": "none", "markerfacecolor": "none", "markeredgecolor": COLOURS["muted"]},
}
WIDTH = 4.3  # inches: at this width the lettering can still be read on a telephone
_DASHES = ("solid", (0, (4, 1.5)), (0, (1.5, 1.2)))
_SELECTION = {"auc": "AUC", "log_loss": "Log loss, negated,", "brier": "Brier score, negated,"}


def draw_figures(document: Json) -> dict[str, str]:
    """Every figure that the document has data for: file name without ``.svg`` -> SVG."""
    drawn = {
        "roc_all_sites": _roc(document, None),
        **{f"roc_{name}": _roc(document, name) for name in document["sites"]},
        "comparison": _comparison(document),
        "convergence": _convergence(document),
        "participation": _participation(document),
    }
    return {name: svg for name, svg in drawn.items() if svg is not None}


def _wrapped(name: str) -> str:
    """A long name on several lines, broken after underscores and hyphens."""
    spaced = name.replace("_", "_ ").replace("-", "- ")
    return "\n".join(line.replace("_ ", "_").replace("- ", "-") for line in textwrap.wrap(spaced, 26, break_on_hyphens=False))


def _roc(document: Json, site: str | None) -> str | None:
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
        axes.set_title(_wrapped(title), x=-0.02)
        return to_svg(figure, name=f"roc_{site or 'all_sites'}", title=heading, description=f"AUC {interval(auc)}")


def _comparison(document: Json) -> str | None:
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
        return to_svg(figure, name="comparison", title="AUC at each site, by how the model was trained", description=words)


def _aucs_at(site: Json) -> dict[str, Json]:
    blocks = {"federated": site, **{arm: site[arm] for arm in _ARMS if arm in site}}
    return {arm: block["metrics"]["auc"] for arm, block in blocks.items() if block["metrics"]["auc"]}


def _dot(axes: Axes, auc: Json, y: float, *, arm: str) -> None:
    _, colour, marker = _ARMS[arm]
    axes.plot([auc["low"], auc["high"]], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
    axes.plot([auc["value"]], [y], marker, color=colour, markersize=5)


def _convergence(document: Json) -> str | None:
    rounds, kind = document["rounds"], document["study"]["selection"]
    if not rounds:
        return None
    best = document["run"]["best_round"]
    judged = [(row["round"] - 1, row["selection"]) for row in rounds if row["selection"] is not None and kind in _SELECTION]
    legend_rows = 1 + len(document["sites"]) // 2
    with canvas(WIDTH, (3.9 if judged else 2.2) + 0.17 * legend_rows) as figure:
        *above, losses = figure.subplots(2 if judged else 1, 1, sharex=True, squeeze=False)[:, 0]
        for scores in above:
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
        _losses(losses, document)
        figure.legend(*losses.get_legend_handles_labels(), loc="outside lower left", ncols=2, columnspacing=1.2)
        words = f"Best model after round {best}. " + "; ".join(
            f"round {row['round']}: loss {decimal(row['loss'], 3)}, selection {decimal(row['selection'], 3)}" for row in rounds
        )
        return to_svg(figure, name="convergence", title="Selection metric and training loss by round", description=words)


def _losses(axes: Axes, document: Json) -> None:
    rounds = document["rounds"]
    for number, name in enumerate(document["sites"]):
        points = [(row["round"], row["sites"][name]["loss"]) for row in rounds if name in row["sites"]]
        if points:
            colour, dash = SITE_COLOURS[number % 7], _DASHES[number // 7 % 3]
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, linewidth=0.9, label=_wrapped(name))
    means = [(row["round"], row["loss"]) for row in rounds if row["loss"] is not None]
    if means:
        axes.plot(*zip(*means, strict=True), color=COLOURS["ink"], linewidth=2, label="mean over patients")
    axes.set_title("Training loss")
    axes.set_xlabel("rounds of training")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")


def _participation(document: Json) -> str | None:
    sites, rounds = document["sites"], [row["round"] for row in document["rounds"]]
    if not rounds:
        return None
    side = max(1.5, min(8.0, 190.0 / len(rounds)))
    with canvas(WIDTH, 0.95 + 0.24 * len(sites)) as figure:
        axes = figure.add_subplot()
        for y, site in enumerate(sites.values()):
            counted, failed = set(site["participated"]), {f["round"] for f in site["failures"] if f["phase"] == "train"}
            neither = set(rounds) - counted - failed
            for group, look in ((counted, "counted"), (failed - counted, "failed"), (neither, "no part")):
                axes.plot(sorted(group), [y] * len(group), markersize=side, **_CELLS[look])
        axes.set(xlim=(rounds[0] - 0.7, rounds[-1] + 0.7), ylim=(len(sites) - 0.4, -0.6), xlabel="round")
        axes.set_yticks(range(len(sites)), [_wrapped(name) for name in sites])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        keys = [axes.plot([], [], label=look, markersize=7, **style)[0] for look, style in _CELLS.items()]
        figure.legend(handles=keys, loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2)
        words = "; ".join(
            f"{name}: " + (f"counted in rounds {ranges(site['participated'])}" if site["participated"] else "no round")
            for name, site in sites.items()
        )
        return to_svg(figure, name="participation", title="Which site took part in which round", description=words)
