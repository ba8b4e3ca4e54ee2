"""Rows of a copied checkpoint are zero, all other values are the same bits, and its files are whole."""

from __future__ import annotations

import io
import itertools
import tempfile
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from twhin_core.checkpoints import erased
from twhin_core.checkpoints.checkpoint import Checkpoint, Marker, Position, newest
from twhin_core.checkpoints.description import ModelDescription
from twhin_core.checkpoints.erased import copy_erased
from twhin_core.checkpoints.index import read_index
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

MODEL = ModelDescription(
    tables={"user": 50}, dim=6, relations=[], operators=[], comparator="dot", reciprocal=False, optimizers={}
)
WEIGHT = "tables.embeddings.user.weight"
ROWS = st.lists(st.integers(0, 49), max_size=12, unique=True).map(sorted)


@settings(max_examples=40)
@given(
    rows=ROWS,
    dtype=st.sampled_from([torch.float32, torch.float16]),
    columns=st.integers(1, 6),
    per_row=st.booleans(),
    piece=st.sampled_from([1, 7, 24, 1 << 20]),
)
def test_erased_rows_are_zero_and_all_others_the_same(
    rows: list[int], dtype: torch.dtype, columns: int, per_row: bool, piece: int
) -> None:
    values = {
        "a": torch.arange(5.0),
        WEIGHT: torch.randn(50, columns).to(dtype),
        f"optimizer.{WEIGHT}.user.sum": torch.rand(50) + 1 if per_row else torch.rand(50, columns) + 1,
        f"optimizer.{WEIGHT}.user.step": torch.tensor(3.0),
        "tables.embeddings.username.weight": torch.ones(50, 2),
    }
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(erased, "PIECE", piece):
        url = f"{folder}/before/checkpoints/4"
        dcp.save(values, storage_writer=FsspecWriter(url), no_dist=True)
        before = Checkpoint(url, Marker(version="0", position=Position(step=4), model=MODEL))
        copy_erased(before, f"{folder}/after", {"user": np.array(rows, np.int64)})
        after = newest(f"{folder}/after")
        assert after is not None
        assert set(after.marker.files) == {"__0_0.distcp", ".metadata"}
        found = {name: torch.full_like(value, 7) for name, value in values.items()}
        dcp.load(found, storage_reader=FsspecReader(after.url), no_dist=True)
        for name in values:
            assert torch.equal(after.stored(name).read_whole(), found[name].to(torch.float32))  # checks the checksums
        for name, value in values.items():
            expected = value.clone()
            if name.endswith((WEIGHT, "user.sum")):
                expected[rows] = 0
            assert torch.equal(found[name], expected), name
        assert_zipped_whole(after)


def assert_zipped_whole(of: Checkpoint) -> None:
    """Every archive has the CRC-32 of what it holds."""
    for shape in read_index(of.url, of.marker.files).values():
        for part in shape.parts:
            content = Path(of.url, part.path).read_bytes()[part.start : part.start + part.length]
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                assert archive.testzip() is None


@given(st.data())
def test_patches_apply_wherever_pieces_end(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=60))
    ends = sorted(data.draw(st.sets(st.integers(1, len(content)))) | {len(content)})
    pieces = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(content)))))
    patches = [(start, bytes(data.draw(st.integers(1, stop - start)))) for start, stop in itertools.pairwise(cuts)]
    expected = bytearray(content)
    for start, new in patches:
        expected[start : start + len(new)] = new
    assert b"".join(erased._patched(iter(pieces), iter(patches))) == expected


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["row_wise", "column_wise", "table_wise", "data_parallel"])
def test_a_checkpoint_of_two_ranks(small_config: SmallConfig, tmp_path: Path, sharding: str) -> None:
    adagrad = {"adagrad": {"lr": 0.1}}
    tables = [
        {"name": name, "embedding_dim": 8, "optimizer": adagrad, "sharding": sharding} for name in ("user", "tweet")
    ]
    config, root = small_config(model={"embeddings": {"tables": tables}}), str(tmp_path / "before")
    prepare(config, root)
    run_ranks(2, train, config, root)
    before = newest(root)
    assert before is not None
    gone = {"user": np.array([0, 7, 19, 20, 21, 39]), "tweet": np.array([14, 15, 29])}
    copy_erased(before, str(tmp_path / "after"), gone)
    after = newest(str(tmp_path / "after"))
    assert after is not None
    assert_zipped_whole(after)
    for name, shape in read_index(before.url, before.marker.files).items():
        expected, found = (of.stored(name).read_whole() for of in (before, after))
        for table, rows in gone.items():
            if f"embeddings.{table}.weight" in name and shape.size[:1] == (len(expected),) and expected.dim():
                expected[rows] = 0
        assert torch.equal(found, expected), name
