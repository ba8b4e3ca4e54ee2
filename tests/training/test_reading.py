"""The config's reading options take effect in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


def losses(small_config: SmallConfig, root: Path, **train_data: Any) -> tuple[int, list[float]]:
    """The edges there are, and the loss of every step of two epochs."""
    config = small_config(train_data=train_data)
    prepare(config, str(root))
    train(config, str(root))
    edges = json.loads((root / "graph/manifest.json").read_text())["splits"]["train"]["edges"]
    lines = map(json.loads, (root / "training/metrics.jsonl").read_text().splitlines())
    return edges, [line["loss"] for line in lines if "loss" in line]


def test_what_fills_no_step_makes_a_short_one_or_is_dropped(small_config: SmallConfig, tmp_path: Path) -> None:
    edges, short = losses(small_config, tmp_path / "short")
    _, dropped = losses(small_config, tmp_path / "drop", remainder="drop")
    assert edges % 64, "or there is nothing to drop"
    assert len(short) == 2 * (edges // 64 + 1)
    assert len(dropped) == 2 * (edges // 64)
    assert dropped[: edges // 64] == short[: edges // 64]


def test_a_smaller_buffer_is_another_order(small_config: SmallConfig, tmp_path: Path) -> None:
    edges, whole = losses(small_config, tmp_path / "whole")
    _, same = losses(small_config, tmp_path / "same", shuffle_buffer=edges)
    _, windows = losses(small_config, tmp_path / "windows", shuffle_buffer=100)
    assert same == whole
    assert windows != whole
    assert len(windows) == len(whole)


def test_a_remainder_that_is_all_of_the_data_cannot_be_dropped(small_config: SmallConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_data.remainder: drop leaves nothing of \d+ edges.* step of 1 x 5000"):
        losses(small_config, tmp_path / "run", remainder="drop", per_replica_batch_size=5000)
