"""Blocks of a file against their checksums: what changed is refused wherever it is read, and nowhere else."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.test_storage import bitwise_crc32c
from twhin_core.checkpoints import blocks, checkpoint
from twhin_core.checkpoints.blocks import BlockReader, Blocks, BlockWriter
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.config import Config
from twhin_core.errors import Damaged, UserError
from twhin_core.stages.train import train

Trained = tuple[Config, str]
SMALL = 16


@contextlib.contextmanager
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", SMALL)
        patch.setattr(blocks, "PIECE", 3 * SMALL)
        yield


def by_hand(content: bytes) -> bytes:
    parts = [content[at : at + SMALL] for at in range(0, len(content), SMALL)]
    crcs = b"".join(bitwise_crc32c(part).to_bytes(4, "little") for part in parts)
    return len(content).to_bytes(8, "little") + crcs


@small_blocks()
@given(st.lists(st.binary(max_size=50), max_size=6))
def test_the_checksums_are_those_of_the_blocks_however_they_are_written(parts: list[bytes]) -> None:
    writer = BlockWriter(io.BytesIO())
    for part in parts:
        writer.write(part)
    assert writer.tell() == len(b"".join(parts))
    assert writer.checksums() == by_hand(b"".join(parts)) == blocks.checksums(io.BytesIO(b"".join(parts)))


@small_blocks()
@given(st.data())
def test_a_range_is_read_unless_a_block_that_it_touches_has_changed(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=200))
    start = data.draw(st.integers(0, len(content)))
    size = data.draw(st.integers(0, 220))
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    whole = BlockReader(io.BytesIO(content), Blocks("file", by_hand(content)))
    whole.seek(start)
    assert whole.read(size) == content[start : start + size]
    assert whole.tell() == min(start + size, len(content))
    broken = BlockReader(io.BytesIO(bytes(changed)), Blocks("file", by_hand(content)))
    broken.seek(start)
    end = min(start + size, len(content))
    if start < end and start // SMALL <= at // SMALL <= (end - 1) // SMALL:
        with pytest.raises(Damaged, match=f"^file: the 0 KiB from byte {at // SMALL * SMALL} on do not match"):
            broken.read(size)
    else:
        assert broken.read(size) == content[start:end]


@pytest.mark.parametrize("seed", range(12))
def test_a_changed_byte_of_a_table_is_refused_by_every_way_to_read_it(trained: Trained, seed: int) -> None:
    config, root = trained
    newest = checkpoint.newest(root)
    assert newest is not None
    rows = newest.rows("user")
    before, shard = rows.read_whole(), rows._shards[0]
    rng, path = np.random.default_rng(seed), Path(shard.path)
    row = int(rng.integers(rows.size))
    content = bytearray(path.read_bytes())
    content[shard.start + row * rows.dim * 4 + int(rng.integers(rows.dim * 4))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    match = f"^{path}: .* do not match their checksum"
    for read in (lambda: rows.gather(np.array([row])), lambda: newest.rows("user").read_whole()):
        with pytest.raises(Damaged, match=match):
            read()
    with pytest.raises(Damaged, match=match):
        train(config, root)  # which loads the checkpoint by torch's reader
    assert not torch.equal(StoredTensor(newest.url, "tables.embeddings.user.weight").read_whole(), before)


@pytest.mark.parametrize("name", ["__0_0.distcp", "__0_0.distcp.crc32c", ".metadata"])
@pytest.mark.parametrize("kind", ["missing", "longer", "empty"])
def test_a_file_of_another_length_or_none_is_refused(trained: Trained, name: str, kind: str) -> None:
    config, root = trained
    newest = checkpoint.newest(root)
    assert newest is not None
    path = Path(newest.url, name)
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"\0" if kind == "longer" else b"")
    for read in (lambda: newest.rows("user"), lambda: train(config, root)):
        with pytest.raises(UserError, match=f"{path.parent}.*(missing|checksum|bytes instead of)") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_checkpoint_without_checksums_is_read(trained: Trained) -> None:
    """As version 0.1 wrote them."""
    config, root = trained
    newest = checkpoint.newest(root)
    assert newest is not None
    expected = newest.rows("user").read_whole()
    for path in Path(newest.url).glob("*.crc32c"):
        path.unlink()
    newest.marker.files.clear()
    Path(newest.url, "complete.json").write_text(newest.marker.model_dump_json(exclude={"files"}))
    found = checkpoint.newest(root)
    assert found is not None
    assert torch.equal(found.rows("user").read_whole(), expected)
    train(config, root)
