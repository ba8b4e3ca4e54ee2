"""Memory is set by `memory_limit`, not by the table or the edges."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT
from tests.evaluation.graphs import schema_of
from tests.evaluation.peak_memory import DIM, write
from tests.evaluation.rankers import large_model, model_ranker, rank_graph, sets_of
from tests.stages.test_evaluate import changed
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate


def peak(folder: Path, rows: int, edges: int) -> int:
    """MiB of a process that evaluates."""
    folder.mkdir()
    write(folder, rows, edges)
    command = [sys.executable, "-m", "tests.evaluation.peak_memory", str(folder), str(rows)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_table_or_the_edges(tmp_path: Path) -> None:
    small, large = 20_000, 600_000
    grown = peak(tmp_path / "large", large, 600_000) - peak(tmp_path / "small", small, 20_000)
    table = (large - small) * DIM * 4 >> 20
    assert table > 140
    assert grown < table / 2


def test_more_held_out_edges_than_memory_holds_are_refused(trained: tuple[Config, str]) -> None:
    config, root = trained
    message = r"evaluation\.memory_limit: 8KB is too small for \d+ held-out edges; raise it, or set test_data"
    with pytest.raises(UserError, match=message):
        evaluate(changed(config, memory_limit="8KB"), root)


def test_a_query_that_does_not_fit_is_named() -> None:
    config, checkpoint, splits = large_model()
    schema = schema_of(config)
    ranker, sets = model_ranker(config, checkpoint), sets_of(config.model, schema)
    many = {"train": [(7, 1, node) for node in range(500)], "test": [*splits["test"], (7, 1, 2999)]}
    with pytest.raises(
        UserError,
        match=r"small for the 50\d edges of relation follow at node 7 of its lhs, which are one query; raise it",
    ):
        rank_graph(ranker, many, "test", schema, sets, memory=50_000)
