"""`evaluation/report.html`: one file for a person, with nothing to load and no script."""

from twhin_core.report.write import write_report as write_report
