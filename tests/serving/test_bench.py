"""The benchmark of the server goes through all of its parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT


@pytest.mark.slow
def test_it_runs_at_a_small_size(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.bench_serve", "--folder", str(tmp_path), "--items", "3000"]
    ran = subprocess.run(
        [*command, "--seconds", "1", "--connections", "1", "4"], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert [of["connections"] for of in result["loads"]] == [1, 4]
    assert all(of["requests_per_s"] > 0 for of in result["loads"])
    assert result["recall"] > 0.9
