"""Edges read onto a device equal those read in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from twhin_core.config import Relation
from twhin_core.data.epochs import EpochReader, InProcess, State
from twhin_core.data.files import EdgeFiles
from twhin_core.data.windows import Windows
from twhin_core.schema import Schema
from twhin_core.training.device_source import OnDevice

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROWS = 50


def make_files(folder: Path, weighted: bool) -> EdgeFiles:
    rng = np.random.default_rng(1)
    columns = {
        "lhs": rng.integers(ROWS, size=100),
        "rel": np.zeros(100, np.int32),
        "rhs": rng.integers(ROWS, size=100),
    }
    if weighted:
        columns["weight"] = rng.random(100).astype(np.float32) + 1
    pq.write_table(pa.table(columns), folder / "edges.parquet", row_group_size=10)
    relation = Relation(name="to", lhs="node", rhs="node")
    return EdgeFiles([str(folder / "edges.parquet")], Schema({"node": ROWS}, [relation]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("buffer", [1000, 30])
@pytest.mark.parametrize("state", [State(epoch=0, edges=0), State(epoch=1, edges=42)])
def test_steps_equal_those_read_in_this_process(tmp_path: Path, weighted: bool, buffer: int, state: State) -> None:
    """With windows of 30 edges, steps of 16 lie across two windows."""
    files = make_files(tmp_path, weighted)
    found = []
    for make_reader in (InProcess, lambda windows: OnDevice(windows, DEVICE)):
        windows = Windows(files, seed=3, buffer=buffer)
        reader = EpochReader(windows, batch_size=16, reader=make_reader(windows))  # type: ignore[operator]
        reader.load_state_dict(state)
        found.append([*reader.steps(num_epochs=3), *reader.steps_in_order()])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert (ours.after, ours.step_edges) == (theirs.after, theirs.step_edges)
        moved = ours.edges.to(DEVICE)  # type: ignore[attr-defined]  # the device's edges
        for name in ("lhs", "rel", "rhs", "weight"):
            np.testing.assert_array_equal(getattr(moved, name).cpu().numpy(), getattr(theirs.edges, name), name)
