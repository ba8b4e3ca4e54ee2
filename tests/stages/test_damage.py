"""No damage to a file of a run goes unnoticed where it matters, and none ends in a traceback.

`TWHIN_DAMAGES=1000 pytest -s tests/stages/test_damage.py -m slow` draws as many as docs/operations.md reports.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SmallConfig
from tests.graph.test_labels import labeled
from tests.stages.damage import SILENT, TRACEBACK, Campaign, finish


@pytest.mark.slow
def test_damage_is_refused_said_or_harmless(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twhin_core.stages.report.draw_missing", lambda *_: None)  # `look` is what it reads
    count = int(os.environ.get("TWHIN_DAMAGES", "30"))
    seed = int(os.environ.get("TWHIN_SEED", f"{secrets.randbelow(10**6)}"))
    config = labeled(
        small_config,
        tmp_path,
        training={"num_epochs": 1, "checkpoint_every_n": 5, "checkpoint_max_to_keep": 2},
        evaluation={"gates": {"test.all.mrr": {"min": 0.0}}},
        export={"formats": ["parquet", "npy", "faiss", "pq", "vertex-vector-search"], "pq": {"bits": 4}},
    )
    finish(config, tmp_path / "run")
    campaign, rng = Campaign(config, tmp_path / "run", tmp_path), np.random.default_rng(seed)
    outcomes = [campaign.one(rng) for _ in range(count)]
    print(f"seed {seed}:", dict(Counter(outcome.ended for outcome in outcomes)))  # noqa: T201 -- to draw them again
    for outcome in outcomes:
        print(outcome)  # noqa: T201
    assert not [outcome for outcome in outcomes if outcome.ended in (SILENT, TRACEBACK)], f"seed {seed}"
