"""A run root is a name, whatever characters it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


@pytest.mark.parametrize("name", ["run[1]", "r*n?", "{run} 'é'"])
def test_every_stage_in_a_root_of_any_name(small_config: SmallConfig, tmp_path: Path, name: str) -> None:
    config = small_config(evaluation={"bootstrap": 20})
    root = str(tmp_path / name)
    manifest = prepare(config, root)
    train(config, root)
    evaluate(config, root)
    exported = export(config, root)
    assert {entry.name: entry.num_embeddings for entry in manifest.tables} == {"user": 40, "tweet": 30}
    assert exported is not None
    assert (tmp_path / name / "evaluation/report.html").exists()
