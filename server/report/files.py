"""The report as files of a run directory: the page, and each figure as SVG and PDF."""

from pathlib import Path
from typing import Any

from server.report.figures import draw_figures
from server.report.page import render
from shared_model.durable import write_durably

Json = dict[str, Any]


def write(run_directory: Path, document: Json) -> Path:
    """Write ``report.html`` and ``figures/``, where figures of an earlier state are deleted; return the page's path."""
    drawings = draw_figures(document)
    figures = run_directory / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings.items():
        write_durably(figures / f"{name}.svg", drawing.svg.encode())
        write_durably(figures / f"{name}.pdf", drawing.pdf)
    for path in figures.iterdir():
        if path.suffix in {".svg", ".pdf"} and path.stem not in drawings:
            path.unlink()
    page = run_directory / "report.html"
    write_durably(page, render(document, drawings).encode())
    return page
