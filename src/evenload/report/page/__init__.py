"""The page of a replay: one HTML file that opens offline, and the same figures as pictures."""

from __future__ import annotations

from evenload.report.page.check import check_page_path
from evenload.report.page.write import write_page
from evenload.report.page.write_figures import check_figures_folder, write_figures

__all__ = ["check_figures_folder", "check_page_path", "write_figures", "write_page"]
