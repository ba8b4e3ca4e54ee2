"""Export holds blocks, not tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT

ROWS, DIM = 4_000_000, 128


@pytest.mark.slow
def test_an_export_takes_far_less_memory_than_the_table(tmp_path: Path) -> None:
    """What the exporting process takes beyond its imports varies with how far reading is ahead of writing."""
    command = [sys.executable, "-m", "benchmarks.bench_export", "--rows", str(ROWS), "--folder", str(tmp_path)]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(out.splitlines()[-1])
    table_mib = ROWS * DIM * 4 / 2**20
    assert result["peak_mib"] - result["mib_before"] < 0.4 * table_mib
