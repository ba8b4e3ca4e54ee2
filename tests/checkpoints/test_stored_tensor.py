"""Rows of stored tensors equal what torch's reader returns, and only their bytes are read."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

from twhin_core.checkpoints import blocks, stored_tensor
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.errors import Damaged, UserError


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


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(60, 7),
        torch.randn(50, 4).to(torch.float16),
        torch.randn(40, 9)[:, 2:5],
        torch.arange(90).view(30, 3),
        torch.randn(70),
    ],
    ids=["rows", "half", "part", "numbers", "vector"],
)
@pytest.mark.parametrize("piece_bytes", [1, 200, 100_000])
def test_checked_rows_equal_the_stored_values_unless_one_of_their_blocks_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: torch.Tensor, piece_bytes: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(blocks, "PIECE", 192)
    monkeypatch.setattr(stored_tensor, "PIECE_BYTES", piece_bytes)
    stored(tmp_path / "c", value)
    (file,) = (tmp_path / "c").glob("*.distcp")
    whole = file.read_bytes()
    checksums = blocks.checksums(io.BytesIO(whole))
    Path(f"{file}.crc32c").write_bytes(checksums)
    rows = StoredTensor(str(tmp_path / "c"), "value", {file.name: blocks.digest(checksums)})
    expected = value.to(rows.dtype).view(-1, rows.dim) if value.dim() > 1 else value.view(-1, 1)
    width, first = value.element_size() * rows.dim, rows._shards[0].start
    rng = np.random.default_rng(piece_bytes)
    for _ in range(40):
        start, stop = np.sort(rng.integers(rows.size + 1, size=2)).tolist()
        file.write_bytes(whole)
        assert torch.equal(rows.read(start, stop), expected[start:stop])
        at = int(rng.integers(len(whole)))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        begin, end = first + start * width, first + stop * width
        if start < stop and begin // 64 <= at // 64 <= (end - 1) // 64:
            with pytest.raises(Damaged, match=f"from byte {at // 64 * 64:,} on do not match their checksum"):
                rows.read(start, stop)
        else:
            assert torch.equal(rows.read(start, stop), expected[start:stop])
    file.write_bytes(whole[: first + width])
    with pytest.raises(Damaged, match=r"ends before byte [\d,]+; "):
        rows.read(0, rows.size)


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
