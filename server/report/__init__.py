"""The report an investigator reads: one self-contained page, drawn from the results document alone."""

from server.report.figures import draw_figures
from server.report.files import write
from server.report.page import render

__all__ = ["draw_figures", "render", "write"]
