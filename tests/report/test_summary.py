"""The tables for a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from tests.conftest import SmallConfig
from tests.report.made_metrics import made_metrics, made_probe
from twhin_core.evaluation.metrics import names
from twhin_core.output import print_tables
from twhin_core.report.summary import list_metrics


def test_the_terminal_shows_the_result_beside_the_baselines(small_config: SmallConfig) -> None:
    relations = [f"[bold]{position}" for position in range(12)]
    metrics = made_metrics(relations, names(small_config().evaluation))
    metrics["intervals"] = {"all": {"mrr": [0.25, 0.35]}, "[bold]0": {"mrr": [0.3, 0.32]}}
    text = io.StringIO()
    print_tables(list_metrics(metrics), Console(file=text, width=120))
    rows = [line.replace("│", " ").split() for line in text.getvalue().splitlines()]
    assert ["mrr", "0.3000", "0.2500–0.3500", "0.2000", "0.1000", "0.9000"] in rows
    assert any(row[:1] == ["recall@20"] and row[-1] == "–" for row in rows)
    assert ["[bold]0", "999", "0.3100", "0.3000–0.3200", "0.2100", "0.1100", "0.9000"] in rows
    assert "10 largest of 12" in text.getvalue()
    assert "[bold]10" not in text.getvalue()


def test_the_terminal_shows_the_probe(small_config: SmallConfig) -> None:
    metrics = made_metrics(["a"], names(small_config().evaluation), probe=made_probe("user", "churned", ["no", "yes"]))
    text = io.StringIO()
    print_tables(list_metrics(metrics), Console(file=text, width=120))
    rows = [line.replace("│", " ").split() for line in text.getvalue().splitlines()]
    assert ["features_and_vectors", "0.9000", "0.8900–0.9200", "0.9100", "0.9000–0.9300"] in rows
    assert "churned of 600 held-out user nodes" in text.getvalue()


def test_a_narrow_terminal_cuts_no_name_and_no_figure(small_config: SmallConfig) -> None:
    relations = ["a" * 30, "b"]
    metrics = made_metrics(relations, names(small_config().evaluation))
    metrics["intervals"] = {relation: {"mrr": [0.25, 0.35]} for relation in ("all", *relations)}
    text = io.StringIO()
    print_tables(list_metrics(metrics), Console(file=text, width=56))
    assert "…" not in text.getvalue()
    assert text.getvalue().count("a") >= 30
