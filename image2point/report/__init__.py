"""What runs found, for people: a page, tables on the terminal and in Markdown, figures; from run directories alone."""

from image2point.report.page import build
from image2point.report.tables import Row, markdown, print_table, rows
from image2point.report.vector import write_figures

__all__ = ["Row", "build", "markdown", "print_table", "rows", "write_figures"]
