"""The part on lists, from figures that say what they are of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.report.made_metrics import made_metrics
from tests.report.page import Page
from twhin_core.evaluation.metrics import names
from twhin_core.report.lists import collect
from twhin_core.report.write import write_report

RANGES = [(0, 3), (4, 4), (5, 1234)]


def made_lists(sources: list[str]) -> dict[str, Any]:
    """The lists of one relation; every figure is another number, and each group has ten answers more than the last."""
    of = {
        source: {name: round(number / 10 + row / 100, 4) for row, name in enumerate(("recall@5", "popularity@5"))}
        for number, source in enumerate(sources, 1)
    }
    deciles = {
        source: [
            {"from": low, "to": high, "answers": 1990 + 10 * row, "recall@5": number / 10 + row / 1000}
            for row, (low, high) in enumerate(RANGES)
        ]
        for number, source in enumerate(sources, 1)
    }
    return {
        "at": [5],
        "users": 7,
        "answers": 6000,
        "candidates": 99,
        "reachable": 5000,
        "figures": of,
        "intervals": {source: {"recall@5": [0.0, 0.9]} for source in sources},
        "degrees": {source: {"1-9": {"users": 7, **figures}} for source, figures in of.items()},
        "deciles": deciles,
        "sources": {source: {"vector": {"listed@5": 35, "hits@5": number}} for number, source in enumerate(sources)},
    }


def page(small_config: SmallConfig, tmp_path: Path, lists: dict[str, Any]) -> Page:
    metrics = made_metrics(["fav"], names(small_config().evaluation), lists={"relations": {"fav": lists}})
    write_report(str(tmp_path / "report.html"), metrics, small_config(), str(tmp_path))
    return Page((tmp_path / "report.html").read_text())


def test_recall_is_drawn_by_the_ranges_of_degrees() -> None:
    sources = ["model", "without prior", "popularity", "random", "item-item"]
    (found,) = collect({"lists": {"relations": {"fav": made_lists(sources)}}})
    assert found.by_decile is not None
    assert [(row.name, row.note) for row in found.by_decile.rows] == [
        ("0-3", "1,990\u00a0answers"), ("4", "2,000\u00a0answers"), ("5-1,234", "2,010\u00a0answers"),
    ]  # fmt: skip
    drawn = ["result", "without-prior", "popularity", "item-item"]
    for number, row in enumerate(found.by_decile.rows):
        assert [bar.series for bar in row.bars] == drawn == [series for series, _ in found.series]
        assert [bar.figure for bar in row.bars] == [f"0.{source}0{number}" for source in (1, 2, 3, 5)]


@pytest.mark.parametrize("has_prior", [True, False])
def test_the_page_shows_what_the_prior_trades(small_config: SmallConfig, tmp_path: Path, has_prior: bool) -> None:
    sources = ["model", *["without prior"] * has_prior, "popularity"]
    shown = page(small_config, tmp_path, made_lists(sources))
    values = [f"{number / 10 + 0.01:.1f}" for number in range(1, 1 + len(sources))]
    assert ["metric", "this run", "95\u00a0% interval", *sources[1:]] in shown.rows
    assert ["popularity@5", values[0], "–", *values[1:]] in shown.rows
    assert any(row[0] == "vector, without prior" for row in shown.rows) == has_prior
    texts = " ".join(shown.texts)
    assert ("model.prior" in texts) == has_prior
    assert "by degree of the candidate" in texts


@pytest.mark.parametrize("lacks", ["deciles", "answers"])
def test_it_is_drawn_without_deciles(small_config: SmallConfig, tmp_path: Path, lacks: str) -> None:
    """Which metrics of earlier releases lack, and those of users whose answers are all left out."""
    lists = made_lists(["model", "popularity"])
    if lacks == "deciles":
        del lists["deciles"]
    else:
        lists |= {"users": 0, "answers": 0, "reachable": 0, "deciles": {"model": [], "popularity": []}}
    shown = " ".join(page(small_config, tmp_path, lists).texts)
    assert "by degree of the user" in shown
    assert "Funnel" in shown
    assert not re.search("by degree of the candidate", shown)
