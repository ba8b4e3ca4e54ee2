"""`evaluation/report.html`: one file for a person, with nothing to load and no script."""
