"""Both systems' vectors are ranked by one measure, that of hand computation; our way runs at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.pipeline import ranks
from tests.command_line import ROOT


def test_ranks_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "CANDIDATES", 4)
    (tmp_path / "test.tsv").write_text("u0\tu1\nu0\tu9\n")  # u9 is unknown, so that its edge counts for nothing
    table = torch.tensor([[1.0, 0.0], [2.0, 1.0], [4.0, 0.0], [0.0, 5.0]])
    vectors = ranks.Vectors(pa.array(["u0", "u1", "u2", "u3"]), table, torch.tensor([0.0, 1.0]), 0)
    drawn = np.array([[1, 2, 3, 3], [0, 0, 0, 0]])
    monkeypatch.setattr(ranks.np.random, "default_rng", lambda _: Drawn(drawn))
    # Who u0 follows: ⟨(1, 1), ·⟩ is 3 for u1, 4 for u2, 5 for u3, drawn twice: the fourth; u1 itself is not counted.
    # Who follows u1: ⟨· + (0, 1), (2, 1)⟩ is 3 for u0, 9 for u2, 6 for u3, drawn twice, 6 for u1: the fifth.
    assert ranks.mean_reciprocal_rank(vectors, tmp_path, nodes=4) == pytest.approx((1 / 4 + 1 / 5) / 2)
    # With the shift at the rhs: ⟨(1, 0), · + (0, 1)⟩ is 2 for u1, 4 for u2, 0 for u3: the second.
    # ⟨·, (2, 2)⟩ is 2 for u0, 8 for u2, 10 for u3, drawn twice, 6 for u1: the fifth.
    vectors = replace(vectors, shifts_rhs=True)
    assert ranks.mean_reciprocal_rank(vectors, tmp_path, nodes=4) == pytest.approx((1 / 2 + 1 / 5) / 2)


class Drawn:
    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def integers(self, *_: int, size: int) -> np.ndarray:
        return self.numbers.reshape(size)


@pytest.mark.slow
def test_it_runs_at_a_small_size(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.bench_pipeline", "--nodes", "4000", "--edges", "60000",
        "--folder", str(tmp_path),
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])["twhin"]
    assert found["mrr"] > 2 * 0.0075  # of a random order of 1,001, H(1001) / 1001
    assert found["peak_mib"] > 0
