"""What runs found, for people: a page, a table in the terminal, a table in Markdown; all from run directories alone."""

from image2point.report.page import build
from image2point.report.tables import Row, markdown, print_table, rows

__all__ = ["Row", "build", "markdown", "print_table", "rows"]
