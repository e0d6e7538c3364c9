"""The report as files of a run directory: the page, each figure as SVG and PDF, each table as CSV, and texts to copy."""

from pathlib import Path
from typing import Any

from server.report.figures import draw_figures
from server.report.page import render
from server.report.prose.methods import methods
from server.report.prose.model_card import model_card
from server.report.prose.part import as_markdown
from server.report.tables import build_tables
from shared_model.durable import write_durably

Json = dict[str, Any]


def write(run_directory: Path, document: Json) -> Path:
    """Write ``report.html``, ``methods.md``, ``model_card.md``, ``figures/`` and ``tables/``; return the page's path.

    Figures and tables of an earlier state of the run are deleted.
    """
    drawings, tables = draw_figures(document), build_tables(document)
    _replace(run_directory / "figures", {f"{name}.svg": drawing.svg.encode() for name, drawing in drawings.items()}, ".svg")
    _replace(run_directory / "figures", {f"{name}.pdf": drawing.pdf for name, drawing in drawings.items()}, ".pdf")
    _replace(run_directory / "tables", {f"{name}.csv": table.csv.encode() for name, table in tables.items()}, ".csv")
    write_durably(run_directory / "methods.md", as_markdown("Methods", methods(document)).encode())
    title = f"Model card: {document['study']['title']}"
    write_durably(run_directory / "model_card.md", as_markdown(title, model_card(document)).encode())
    page = run_directory / "report.html"
    write_durably(page, render(document, drawings, tables).encode())
    return page


def _replace(folder: Path, files: dict[str, bytes], suffix: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_durably(folder / name, content)
    for path in folder.glob(f"*{suffix}"):
        if path.name not in files:
            path.unlink()
