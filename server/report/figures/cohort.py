"""Who was studied: the flow from records to parts, and what was not recorded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from server.report.figures.looks import WIDTH, shortened
from server.report.svg import COLOURS, Drawing, canvas
from server.report.wording import left_out, percent
from shared_model.messages import PARTS_IN_WORDS

Json = dict[str, Any]

_COLUMNS = (0.0, 1.25, 2.5, 3.45, 4.4)  # where the boxes of a row stand: found, left out, and the three parts
_BOX = 0.82


def draw(document: Json) -> Iterator[Drawing]:
    """``flow``, and ``missingness`` where a study has variables."""
    described = {name: site for name, site in document["sites"].items() if site["cohort"]}
    if described:
        yield _flow(described)
        if any(any(site["cohort"]["missing"].values()) for site in described.values()):
            yield _missingness(described)


def _flow(sites: dict[str, Json]) -> Drawing:
    rows = [(name, _numbers(site)) for name, site in sites.items()]
    if len(rows) > 1:
        columns = list(zip(*(numbers for _, numbers in rows), strict=True))
        rows.append(("All sites", [None if None in column else sum(column) for column in columns]))
    words = []
    with canvas(WIDTH, 0.35 + 0.56 * len(rows)) as figure:
        axes = figure.add_subplot()
        for x, label in zip(_COLUMNS, ("found", "left out", *PARTS_IN_WORDS.values()), strict=True):
            axes.text(x, -0.62, label, ha="center", size=8, color=COLOURS["muted"])
        for y, (name, (found, out, *parts)) in enumerate(rows):
            axes.text(_COLUMNS[0] - _BOX / 2, y - 0.36, name, size=min(8.5, 400 / len(name)), weight="bold", va="center")
            axes.plot([_COLUMNS[0], _COLUMNS[-1]], [y, y], color=COLOURS["muted"], linewidth=0.8, zorder=0)
            _box(axes, _COLUMNS[0], y, "–" if found is None else f"{found:,}")
            _box(axes, _COLUMNS[1], y, "–" if out is None else f"− {out:,}", dashed=True)
            labelled = [_patients(patients, events) for patients, events in zip(parts[::2], parts[1::2], strict=True)]
            for x, label in zip(_COLUMNS[2:], labelled, strict=True):
                _box(axes, x, y, label, filled=True)
            counts = ", ".join(f"{part} {label}" for part, label in zip(PARTS_IN_WORDS.values(), labelled, strict=True))
            told = "not told how many found or left out" if found is None else f"{found} found, {out} left out"
            words.append(f"{name}: {told}, {counts}")
        axes.set(xlim=(-0.5, 4.9), ylim=(len(rows) - 0.6, -0.85))
        axes.set_axis_off()
        return Drawing(figure, "flow", "From each site's records to the parts of the study", "; ".join(words))


def _numbers(site: Json) -> list[int | None]:
    cohort = site["cohort"]
    parts = [number for key in PARTS_IN_WORDS for number in (site["n"][key], site["events"][key])]
    return [cohort["found"], left_out(cohort), *parts]


def _patients(patients: int | None, events: int | None) -> str:
    """Patients and, unless a site held them back, events."""
    return f"{patients:,}" if events is None else f"{patients:,} ({events:,})"


def _box(axes: Axes, x: float, y: float, text: str, *, filled: bool = False, dashed: bool = False) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - _BOX / 2, y - 0.17),
            _BOX,
            0.34,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=COLOURS["tint"] if filled else COLOURS["paper"],
            edgecolor=COLOURS["muted"],
            linestyle=(0, (3, 2)) if dashed else "solid",
            linewidth=0.8,
        )
    )
    axes.text(x, y, text, ha="center", va="center", size=8.5)


def _missingness(sites: dict[str, Json]) -> Drawing:
    variables = list(next(iter(sites.values()))["cohort"]["missing"])
    shares = np.array([[site["cohort"]["missing"][name] or 0.0 for site in sites.values()] for name in variables])
    with canvas(WIDTH, 0.8 + 0.235 * len(variables) + 0.05 * min(24, max(len(name) for name in sites))) as figure:
        axes = figure.add_subplot()
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                axes.add_patch(_cell(x, y, share))
                dark = share > 0.55
                text = percent(share) if share else "·"
                colour = COLOURS["paper"] if dark else COLOURS["ink" if share else "muted"]
                axes.text(x, y, text.rstrip("%"), ha="center", va="center", size=7.5 if len(sites) < 10 else 6.5, color=colour)
        axes.set(xlim=(-0.5, len(sites) - 0.5), ylim=(len(variables) - 0.5, -0.5))
        axes.set_xticks(range(len(sites)), [shortened(name) for name in sites], rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(variables)), [name.replace("_", " ") for name in variables])
        axes.tick_params(length=0, labelcolor=COLOURS["ink"])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_title("Patients without a value, %")
        words = "; ".join(
            f"{site}: "
            + (", ".join(f"{name} {percent(share)}" for name, share in zip(variables, column, strict=True) if share) or "none")
            for site, column in zip(sites, shares.T, strict=True)
        )
        return Drawing(figure, "missingness", "Missing values by variable and site", words)


def _cell(x: int, y: int, share: float) -> FancyBboxPatch:
    return FancyBboxPatch(
        (x - 0.46, y - 0.44), 0.92, 0.88, boxstyle="square,pad=0", facecolor=COLOURS["local"], alpha=float(share), linewidth=0
    )
