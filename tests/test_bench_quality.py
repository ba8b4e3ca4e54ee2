"""The quality that the benchmark measures is that of every score compared by hand; it runs at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.quality.graph import Graph, Scores, measure, pause
from tests.command_line import ROOT
from twhin_core.config import Relation
from twhin_core.data.edges import Edges
from twhin_core.schema import Schema, Side


def edges(pairs: list[tuple[int, int]]) -> Edges:
    lhs, rhs = (np.array(ends, np.int64) for ends in zip(*pairs, strict=True))
    return Edges(lhs, np.zeros(len(pairs), np.int64), rhs, np.ones(len(pairs), np.float32))


def test_quality_by_hand() -> None:
    train, test = edges([(0, 0), (1, 3)]), edges([(0, 1), (0, 3), (1, 0)])
    schema = Schema({"user": 2, "item": 4}, [Relation(name="to", lhs="user", rhs="item")])
    graph = Graph(schema, train, test, Edges.joined([train, test]))
    values = torch.tensor([[9.0, 5.0, 7.0, 3.0], [1.0, 2.0, 4.0, 8.0]])

    def scores(side: Side, _: int, node: Tensor) -> Tensor:
        return (values if side == "rhs" else values.T)[node].clone()

    # User 0 has items 2, 1, 3 in this order without its training item: one of its two is in the first two.
    # User 1 has items 2, 1, 0: its one is third.
    assert measure(graph, "recall@2")(scores) == pytest.approx((1 / 2 + 0) / 2)
    assert measure(graph, "recall@3")(scores) == 1
    # Items' ranks without other known ones: (0, 1) 2nd, (0, 3) 2nd, (1, 0) 3rd.
    # Users' ranks: (0, 1) 1st of both; (0, 3) 1st, user 1 being known; (1, 0) 1st, user 0 being known.
    assert measure(graph, "mrr")(scores) == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 + 1 + 1) / 6)


def test_steps_alone_take_time_by_the_clock_that_is_given() -> None:
    """Of a clock on which a step takes 3 seconds and a measurement 100, after 5 seconds of preparation."""
    now = 1000.0

    def steps() -> Iterator[None]:
        nonlocal now
        for _ in range(5):
            now += 3
            yield

    def scores() -> Scores:
        nonlocal now
        now += 100
        return lambda *_: torch.zeros(0)

    points = pause(steps(), per_epoch=2, every=1, scores=scores, taken=5.0, clock=lambda: now)
    assert [point[:2] for point in points] == [(11, 1), (17, 2), (20, 2.5)]


@pytest.mark.slow
def test_it_runs_at_a_small_size(tmp_path: Path) -> None:
    out, plot = tmp_path / "curves.json", tmp_path / "curves.svg"
    small = [
        "prepare.generate={users: 150, tweets: 200, communities: 5, edges_per_user: 20}",
        "training.num_epochs=2",
        "train_data.per_replica_batch_size=500",
    ]
    command = [
        sys.executable, "-m", "benchmarks.bench_quality", "configs/quickstart.yaml", "--metric", "mrr",
        "--target", "0", "--others", "--every", "1", "--out", str(out), "--plot", str(plot),
        *(word for override in small for word in ("--set", override)),
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [epochs for _, epochs, _ in json.loads(out.read_text())["twhin"]] == [1, 2]
    assert json.loads(ran.stdout.splitlines()[-1])["twhin"]["seconds_to_target"] > 0
    assert plot.read_text().startswith("<svg")
