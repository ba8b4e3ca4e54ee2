"""The benchmark of GPUs goes through all of its parts on a CPU, so that none is tried for the first time on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_gpu import PARTS
from tests.command_line import ROOT


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_all_parts_run_at_a_small_size(tmp_path: Path) -> None:
    out = tmp_path / "figures.jsonl"
    command = [sys.executable, "-m", "benchmarks.bench_gpu", "--device", "cpu", "--minutes", "6", "--out", str(out)]
    small = {name: value for name, value in os.environ.items() if name != "TWHIN_DATA"}  # which names whole graphs
    ran = subprocess.run(command, cwd=ROOT, env=small, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["part"] for line in lines if "ended" in line] == list(PARTS)
    measured = {line["part"]: line for line in lines if "ended" not in line}
    assert measured["step"]["edges_per_s"] > 0
    assert {"plain_loop", "torchrec_loop", "ranking", "quality"} <= set(measured)
    assert measured["tests"]["passed"] > 0
