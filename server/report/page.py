"""The page: the sections of ``contents`` in the frame of ``template.html``, from the results document and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from server.report import wording
from server.report.contents import SECTIONS, Section
from server.report.figures import draw_figures
from server.report.svg import Drawing, for_page
from server.report.tables import Table, build_tables

Json = dict[str, Any]


def render(document: Json, drawings: Mapping[str, Drawing] | None = None, tables: Mapping[str, Table] | None = None) -> str:
    """The whole report as one HTML page that needs no network and no script; ``drawings`` and ``tables``, if made already."""
    templates = environment()
    drawn = draw_figures(document) if drawings is None else drawings
    common = {
        "document": document,
        "study": document["study"],
        "run": document["run"],
        "sites": document["sites"],
        "pooled": document["pooled"],
        "figures": {name: Markup(for_page(drawing.svg)) for name, drawing in drawn.items()},
        "tables": build_tables(document) if tables is None else tables,
    }
    bodies: dict[str, str] = {}
    for section in sorted(SECTIONS, key=lambda section: section.last):
        anchors = {other.anchor: other.title for other in SECTIONS if bodies.get(other.anchor)}
        bodies[section.anchor] = _body(templates, section, {**common, **section.context(document), "anchors": anchors})
    shown = [
        {"anchor": section.anchor, "title": section.title, "body": Markup(bodies[section.anchor])}
        for section in SECTIONS
        if bodies[section.anchor]
    ]
    return templates.get_template("template.html").render(**common, sections=shown)


def _body(templates: Environment, section: Section, context: Json) -> str:
    return templates.get_template(f"sections/{section.anchor}.html").render(**context).strip()


def environment() -> Environment:
    """The report's templates, with the filters that they use."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "breakable": _breakable,
        "decimal": wording.decimal,
        "duration": wording.duration,
        "interval": wording.interval,
        "percent": wording.percent,
        "prefixed": lambda name, prefix: f"{prefix}{name}",
        "reject_drawn": lambda names, figures, prefix: [name for name in names if f"{prefix}{name}" not in figures],
        "size": wording.size,
    }
    return made


def _breakable(name: str) -> Markup:
    """A long name that may wrap after its underscores and hyphens."""
    return Markup("<wbr>").join(escape(part) for part in name.replace("_", "_\n").replace("-", "-\n").split("\n"))
