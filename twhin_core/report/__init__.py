"""`evaluation/report.html`: one self-contained page without scripts."""
