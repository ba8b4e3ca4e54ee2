"""Rows of stored tensors equal what torch's reader returns, and only their bytes are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

from twhin_core.checkpoints import stored_tensor
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.errors import UserError


def stored(folder: Path, value: torch.Tensor) -> StoredTensor:
    """`value` in a checkpoint between other tensors, written by torch."""
    others = {"a": torch.arange(5.0), "z": torch.ones(3, 2)}
    dcp.save({**others, "value": value}, storage_writer=FsspecWriter(str(folder)), no_dist=True)
    return StoredTensor(str(folder), "value")


@pytest.mark.parametrize("gap_bytes", [0, 100, 10_000])
@pytest.mark.parametrize("piece_bytes", [1, 24, 200, 10_000])
def test_rows_and_blocks_equal_the_stored_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int, gap_bytes: int
) -> None:
    monkeypatch.setattr(stored_tensor, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(stored_tensor, "GAP_BYTES", gap_bytes)
    value = torch.randn(50, 6)
    rows = stored(tmp_path / "c", value)
    assert (rows.size, rows.dim) == (50, 6)
    for start, stop in [(0, 50), (0, 1), (49, 50), (7, 31), (20, 20)]:
        assert torch.equal(rows.read(start, stop), value[start:stop])
    for wanted in ([3], [49, 0, 3, 3, 48], [], list(range(50)), [5, 6, 7, 30, 31]):
        assert torch.equal(rows.gather(np.array(wanted, np.int64)), value[wanted])


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(3, 2, 4),
        torch.tensor(5),
        torch.arange(4.0),
        torch.randn(4, 8).to(torch.float16),
        torch.randn(6, 10)[:, 2:5],
        torch.empty(3, 0),
        torch.empty(0, 4),
    ],
    ids=["matrices", "number", "vector", "half", "part", "no columns", "no rows"],
)
def test_tensors_of_every_shape_and_type_are_read(tmp_path: Path, value: torch.Tensor) -> None:
    found = stored(tmp_path / "c", value).read_whole()
    assert found.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
    assert torch.equal(found, value.to(found.dtype))


def test_only_the_requested_bytes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored(tmp_path / "c", torch.randn(100_000, 8))
    read = []

    def counted(paths: list[str], starts: list[int], ends: list[int], **options: Any) -> Any:
        read.extend(end - start for start, end in zip(starts, ends, strict=True))
        return ranges(paths, starts, ends, **options)

    ranges = rows._fs.cat_ranges
    monkeypatch.setattr(rows._fs, "cat_ranges", counted)
    rows.read(70_000, 70_010)
    rows.gather(np.array([5, 99_999, 50_000]))
    assert read == [320, 32, 32, 32]


def test_a_checkpoint_removed_during_reading_is_a_user_error(tmp_path: Path) -> None:
    rows = stored(tmp_path / "c", torch.randn(10, 4))
    shutil.rmtree(tmp_path / "c")
    for read in (lambda: rows.read(0, 1), lambda: StoredTensor(str(tmp_path / "c"), "value")):
        with pytest.raises(UserError, match="/c: this checkpoint was removed while it was being read"):
            read()
