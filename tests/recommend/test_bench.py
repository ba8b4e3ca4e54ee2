"""The benchmark of lists goes through all of its parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import ROOT

COMMAND = [sys.executable, "-m", "benchmarks.bench_recommend", "--dim", "16", "--k", "10"]


def result(*arguments: str) -> dict[str, Any]:
    ran = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_exact_lists_beside_bare_loops() -> None:
    found = result("--users", "300", "--items", "5000")
    assert {"ours", "bf16", "products", "faiss", "bare_4096"} <= set(found["seconds"])


@pytest.mark.slow
def test_lists_through_indices_beside_exact_ones(tmp_path: Path) -> None:
    found = result("--users", "300", "--items", "3000", "--index", str(tmp_path / "run"))
    assert set(found["seconds"]) == {"exact", "hnsw", "ivf_pq"}
    assert found["share_of_exact"]["hnsw"] > 0.9
    assert 0.3 < found["share_of_exact"]["ivf_pq"] <= 1
