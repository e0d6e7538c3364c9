"""How sites look in every figure, and what figures share."""

import textwrap
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from server.report.svg import COLOURS, SITE_COLOURS

Json = dict[str, Any]

WIDTH = 4.3  # inches: at this width the lettering can still be read on a telephone
SMALL = (2.5, 2.75)  # inches, of one of several like figures side by side
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1.5, 1.2)))


@dataclass(frozen=True)
class Look:
    """A site's colour, marker and line, the same in every figure; sites of one colour differ in marker and line."""

    colour: str
    marker: str
    dash: Any


def look_of(document: Json, site: str) -> Look:
    """How ``site`` is drawn."""
    number = list(document["sites"]).index(site)
    colours = len(SITE_COLOURS)
    return Look(SITE_COLOURS[number % colours], _MARKERS[number % len(_MARKERS)], _DASHES[number // colours % len(_DASHES)])


def wrapped(name: str, width: int = 26) -> str:
    """A long name on several lines, broken after underscores and hyphens."""
    spaced = name.replace("_", "_ ").replace("-", "- ")
    return "\n".join(
        line.replace("_ ", "_").replace("- ", "-") for line in textwrap.wrap(spaced, width, break_on_hyphens=False)
    )


def unit_square(axes: Axes, *, xlabel: str, ylabel: str, title: str) -> None:
    """Both axes from 0 to 1, with a diagonal."""
    axes.plot([0, 1], [0, 1], color=COLOURS["rule"], linewidth=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_title(wrapped(title, 20), x=-0.02)


def sample(block: Json) -> str:
    """``142 patients, 37 events``, of a scored block."""
    events, others = block["sample_size"]["events"], block["sample_size"]["nonevents"]
    return f"{events + others:,} patients, {events:,} events"


def shortened(name: str, longest: int = 24) -> str:
    """A name cut to ``longest`` characters; tables have it whole."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
