"""Figures as SVG: one look, text as text, and colours that follow a page's light or dark theme."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's palette (safe for the colour-blind), darkened where it is too pale for print. A page that defines the CSS
# variable of the same name draws in its own colour instead.
COLOURS = {
    "ink": "#1b1f24",
    "muted": "#5c6670",
    "rule": "#d5dae0",
    "paper": "#ffffff",
    "tint": "#eef3f8",
    "federated": "#0072b2",
    "local": "#d55e00",
    "central": "#00805c",
    "logistic": "#a3487f",
    "site5": "#8a6d00",
    "site6": "#4a4fb5",
    "site7": "#2b8cbe",
}
SITE_COLOURS = tuple(COLOURS[name] for name in ("federated", "local", "central", "logistic", "site5", "site6", "site7"))
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the layout is the same on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.titlecolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": COLOURS["paper"],
    "axes.facecolor": "none",
}


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of ``width`` x ``height`` inches, to be drawn on within the report's style."""
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


@dataclass(frozen=True)
class Drawing:
    """A finished figure. ``name`` is its file's name without suffix, ``description`` its text alternative."""

    figure: Figure
    name: str
    title: str
    description: str

    @cached_property
    def _laid_out(self) -> Figure:
        """The figure with its layout worked out once: each further time would move things by a hair."""
        with mpl.rc_context(_STYLE):
            self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")
        return self.figure

    @cached_property
    def svg(self) -> str:
        """The figure as a self-contained SVG file, the same bytes for the same data."""
        file = io.StringIO()
        with mpl.rc_context({**_STYLE, "svg.hashsalt": self.name}):
            self._laid_out.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        svg, name = file.getvalue(), self.name
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = svg.replace("'DejaVu Sans'", FONTS)
        svg = re.sub(r'\bid="', f'id="{name}-', svg)
        svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
        words = f'<title id="{name}-title">{escape(self.title)}</title><desc id="{name}-desc">{escape(self.description)}</desc>'
        labelled = f'role="img" aria-labelledby="{name}-title {name}-desc"'
        return re.sub(r"<svg ([^>]*)>", lambda tag: f"<svg {tag[1]} {labelled}>{words}", svg, count=1)

    @property
    def pdf(self) -> bytes:
        """The figure as a PDF file, with its letters as outlines (embedding the font would take four times as long)."""
        file = io.BytesIO()
        with mpl.rc_context({**_STYLE, "pdf.fonttype": 3}):
            self._laid_out.savefig(file, format="pdf", metadata={"CreationDate": None, "Creator": None, "Title": self.title})
        return file.getvalue()


def for_page(svg: str) -> str:
    """A drawing's SVG as part of an HTML page: no prologue, no background, colours by the page's theme."""
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg[svg.index("<svg ") :], flags=re.DOTALL)  # it would style the whole page
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
