"""Reports: pages for a browser, pictures and CSV files, all of the same sheets.

A `Sheet` is a table whose columns say what they are. What a campaign, a comparison, a map or a
trace found becomes sheets, and sheets are written:

>>> import tempfile, torch
>>> from parimend.planner import map_of
>>> sheets = map_sheets(map_of(torch.nn.Linear(64, 10), carriers=["sidecar"], budgets=[4, 16]))
>>> with tempfile.TemporaryDirectory() as folder:
...     [path] = write_csv(sheets, f"{folder}/map.csv")
...     print(path.read_text().splitlines()[1].split(",")[:5])
['sidecar', '4', 'proven', '4', '50']
"""

from parimend.report.campaigns import campaign_sheets, comparison_sheets
from parimend.report.maps import map_sheets
from parimend.report.page import require_page, write_page
from parimend.report.picture import require_picture, write_picture
from parimend.report.sheet import Chart, Column, Known, Sheet
from parimend.report.table import csv_files, require_csv, write_csv
from parimend.report.traces import trace_sheets

__all__ = [
    "Chart",
    "Column",
    "Known",
    "Sheet",
    "campaign_sheets",
    "comparison_sheets",
    "csv_files",
    "map_sheets",
    "require_csv",
    "require_page",
    "require_picture",
    "trace_sheets",
    "write_csv",
    "write_page",
    "write_picture",
]
