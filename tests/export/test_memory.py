"""Export holds blocks, not tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT


@pytest.mark.slow
def test_the_memory_of_an_export_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """What the exporting process takes beyond its imports, for tables of 488 and of 1,465 MiB.

    Both have more blocks than are under way at once: a smaller table would have fewer, and take less.
    """
    grown = []
    for rows in (1_000_000, 3_000_000):
        command = [sys.executable, "-m", "benchmarks.bench_export", "--rows", str(rows), "--folder", str(tmp_path)]
        out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(out.splitlines()[-1])
        grown.append(result["peak_mib"] - result["mib_before"])
    assert grown[1] < grown[0] + 200
