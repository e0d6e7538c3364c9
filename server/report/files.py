"""The report as files of a run directory: the page, and each figure as SVG and PDF."""

from pathlib import Path
from typing import Any

from server.report.figures import draw_figures
from server.report.page import render
from server.report.prose.methods import methods
from server.report.prose.model_card import model_card
from server.report.prose.part import as_markdown
from shared_model.durable import write_durably

Json = dict[str, Any]


def write(run_directory: Path, document: Json) -> Path:
    """Write ``report.html``, ``methods.md``, ``model_card.md`` and ``figures/``; return the page's path.

    Figures of an earlier state of the run are deleted.
    """
    drawings = draw_figures(document)
    figures = run_directory / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings.items():
        write_durably(figures / f"{name}.svg", drawing.svg.encode())
        write_durably(figures / f"{name}.pdf", drawing.pdf)
    for path in figures.iterdir():
        if path.suffix in {".svg", ".pdf"} and path.stem not in drawings:
            path.unlink()
    write_durably(run_directory / "methods.md", as_markdown("Methods", methods(document)).encode())
    title = f"Model card: {document['study']['title']}"
    write_durably(run_directory / "model_card.md", as_markdown(title, model_card(document)).encode())
    page = run_directory / "report.html"
    write_durably(page, render(document, drawings).encode())
    return page
