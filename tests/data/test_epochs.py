"""Every epoch is a permutation of the edges, whatever the files, windows, batches and ranks, and can be entered
anywhere.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.config import Relation
from twhin_core.data.edges import Edges
from twhin_core.data.epochs import EpochReader, Shares, Step
from twhin_core.data.files import EdgeFiles
from twhin_core.data.windows import Windows
from twhin_core.schema import Schema

SCHEMA = Schema({"node": 10**6}, [Relation(name=f"r{rel}", lhs="node", rhs="node") for rel in range(3)])

# Files, each a list of the sizes of its row groups; some are empty.
LAYOUTS = st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=4)
BATCHES, WORLDS, BUFFERS = st.integers(1, 40), st.integers(1, 4), st.integers(1, 150)


def write(folder: str | Path, layout: list[list[int]]) -> list[str]:
    """Files whose edges are numbered by their lhs, in data set order."""
    paths, number = [], 0
    for file, groups in enumerate(layout):
        paths.append(f"{folder}/{file}.parquet")
        schema = pa.schema([("lhs", pa.int64()), ("rel", pa.int32()), ("rhs", pa.int32()), ("weight", pa.float32())])
        with pq.ParquetWriter(paths[-1], schema) as writer:
            for size in groups:
                lhs = np.arange(number, number + size)
                columns = (
                    lhs,
                    (lhs % 3).astype(np.int32),
                    (lhs * 7 % 1000).astype(np.int32),
                    (lhs + 1).astype(np.float32),
                )
                writer.write_table(pa.table(list(columns), schema=schema))
                number += size
    return paths


def open_windows(urls: list[str], buffer: int = 1000, seed: int = 1, **part: Any) -> Windows:
    return Windows(EdgeFiles(urls, SCHEMA, **part), seed, buffer)


def lhs_of(steps: list[Step]) -> list[int]:
    """The edges' numbers, without those that stand for none. Each edge must be whole."""
    numbers = []
    for edges in (step.edges for step in steps):
        real = edges.take(edges.weight > 0)
        assert np.array_equal(real.rel, real.lhs % 3)
        assert np.array_equal(real.rhs, real.lhs * 7 % 1000)
        assert np.array_equal(real.weight, real.lhs + 1)
        assert real.lhs.dtype == real.rel.dtype == real.rhs.dtype == np.int64
        numbers.extend(real.lhs.tolist())
    return numbers


@settings(max_examples=30)
@given(LAYOUTS, BATCHES, WORLDS, BUFFERS, st.integers(0, 50), st.none() | st.integers(1, 100))
def test_each_edge_reaches_one_rank_once_and_all_ranks_take_the_same_number_of_steps(
    layout: list[list[int]], batch: int, world: int, buffer: int, offset: int, limit: int | None
) -> None:
    count = sum(map(sum, layout))
    expected = list(range(count))[offset : None if limit is None else offset + limit]
    with tempfile.TemporaryDirectory() as folder:
        windows = open_windows(write(folder, layout), buffer, offset=offset, limit=limit)
        ranks = [list(EpochReader(windows, batch, rank, world).steps(2)) for rank in range(world)]
    for epoch in range(2):
        taken = [[step for step in steps if step.epoch == epoch] for steps in ranks]
        assert {len(steps) for steps in taken} == {-(-len(expected) // (batch * world))}
        assert sorted(lhs_of([step for steps in taken for step in steps])) == expected
        for steps in zip(*taken, strict=True):
            assert sum(len(lhs_of([step])) for step in steps) == steps[0].step_edges
            assert all(len(step.edges) for step in steps), "no rank may be left without a batch"
        assert all(step.step_edges == batch * world for step in taken[0][:-1])


@settings(max_examples=30)
@given(LAYOUTS, st.data(), BUFFERS)
def test_reading_resumes_exactly_from_any_state_on_any_number_of_ranks(
    layout: list[list[int]], data: st.DataObject, buffer: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        windows = open_windows(write(folder, layout), buffer)
        batch, world = data.draw(BATCHES), data.draw(WORLDS)
        before = [EpochReader(windows, batch, rank, world) for rank in range(world)]
        undisturbed = [list(reader.steps(2)) for reader in before]
        cut = data.draw(st.integers(0, len(undisturbed[0])))
        taken = [steps[:cut] for steps in undisturbed]
        state = taken[0][-1].after if cut else {"epoch": 0, "edges": 0}

        same = EpochReader(windows, batch, 0, world)
        same.load_state_dict(state)
        assert same.steps_left(2) == len(undisturbed[0]) - cut
        rest = list(same.steps(2))
        assert [(step.epoch, step.first) for step in rest] == [(s.epoch, s.first) for s in undisturbed[0][cut:]]
        for one, other in zip(rest, undisturbed[0][cut:], strict=True):
            assert all(np.array_equal(getattr(one.edges, c), getattr(other.edges, c)) for c in ("lhs", "rhs", "weight"))
        assert same.state_dict() == before[0].state_dict()

        batch, world = data.draw(BATCHES), data.draw(WORLDS)
        steps = [step for part in taken for step in part]
        for rank in range(world):
            reader = EpochReader(windows, batch, rank, world)
            reader.load_state_dict(state)
            steps += reader.steps(2)
    counts = Counter((step.epoch, number) for step in steps for number in lhs_of([step]))
    assert counts == {(epoch, number): 1 for epoch in range(2) for number in range(sum(map(sum, layout)))}


@settings(max_examples=30)
@given(LAYOUTS, BATCHES, st.integers(2, 4), BUFFERS)
def test_ranks_take_the_same_steps_as_one_rank_with_a_larger_batch(
    layout: list[list[int]], batch: int, world: int, buffer: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        windows = open_windows(write(folder, layout), buffer)
        one = list(EpochReader(windows, batch * world).steps(1))
        several = [list(EpochReader(windows, batch, rank, world).steps(1)) for rank in range(world)]
    for whole, *parts in zip(one, *several, strict=True):
        assert lhs_of([whole]) == lhs_of(parts)


@settings(max_examples=30)
@given(LAYOUTS, BATCHES, WORLDS, st.integers(0, 100))
def test_drop_skips_edges_that_do_not_fill_a_step(layout: list[list[int]], batch: int, world: int, start: int) -> None:
    count = sum(map(sum, layout))
    start = min(start, count)
    with tempfile.TemporaryDirectory() as folder:
        windows = open_windows(write(folder, layout), 50)
        ranks = []
        for rank in range(world):
            reader = EpochReader(windows, batch, rank, world, "drop")
            reader.load_state_dict({"epoch": 0, "edges": start})
            assert reader.steps_left(2) == (count - start) // (batch * world) + count // (batch * world)
            ranks.append(list(reader.steps(1)))
        whole = lhs_of(list(EpochReader(windows, count or 1).steps(1)))
    steps = (count - start) // (batch * world)
    assert [len(steps) for steps in ranks] == [steps] * world
    assert all(len(step.edges) == batch for steps in ranks for step in steps)
    taken = lhs_of([step for steps in ranks for step in steps])
    assert sorted(taken) == sorted(whole[start : start + steps * batch * world])


@settings(max_examples=200)
@given(st.integers(0, 60), st.integers(0, 60), BATCHES, WORLDS, st.data())
def test_the_positions_of_ranks_match_their_shares(
    start: int, length: int, batch: int, world: int, data: st.DataObject
) -> None:
    stop, size = start + length, batch * world
    begin = data.draw(st.integers(start, stop))
    end = data.draw(st.integers(begin, stop))
    for rank in range(world):
        expected: list[int] = []
        for first in range(start, stop, size):
            step = np.arange(first, min(first + size, stop))
            expected.extend(np.array_split(step, world)[rank].tolist() or [first])
        expected = [position for position in expected if begin <= position < end]
        assert Shares(start, stop, size, rank, world).positions(begin, end).tolist() == expected


def numbers(windows: Windows, epochs: int = 1) -> list[int]:
    return lhs_of(list(EpochReader(windows, 10).steps(epochs)))


def test_epochs_differ_and_depend_on_the_seed(tmp_path: Path) -> None:
    for layout, buffer in (([[40]], 100), ([[20, 20], [20]], 25)):
        urls = write(tmp_path, layout)
        count = sum(map(sum, layout))
        two = numbers(open_windows(urls, buffer), epochs=2)
        assert numbers(open_windows(urls, buffer), epochs=2) == two
        assert two[:count] != two[count:]
        assert numbers(open_windows(urls, buffer, seed=2)) != two[:count]


def test_a_split_that_fits_in_a_window_is_shuffled_completely(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    orders = [
        numbers(open_windows(write(f, groups), 60))
        for f, groups in ((tmp_path, [[9, 31], [20]]), (tmp_path / "one", [[60]]))
    ]
    assert orders[0] == orders[1]
    places = np.argsort(orders[0])
    assert abs(np.corrcoef(places, np.arange(60))[0, 1]) < 0.3


def test_windows_end_with_row_groups_and_only_divide_larger_ones(tmp_path: Path) -> None:
    windows = open_windows(write(tmp_path, [[40, 40], [40, 40, 250]]), buffer=100)
    for epoch in range(5):
        sizes = np.diff(windows.bounds(epoch)).tolist()
        assert sum(sizes) == 410
        assert max(sizes) <= 100
        for number, size in enumerate(sizes):
            taken = windows.get((epoch, number)).edges.lhs
            assert len(taken) == size
            whole_groups = Counter((taken[taken < 160] // 40).tolist())
            assert set(whole_groups.values()) <= {40}, "no small row group is cut"


def test_each_row_group_is_decoded_once_per_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding a large one continues where the previous window stopped."""
    windows = open_windows(write(tmp_path, [[40, 300], [70]]), buffer=50)
    opened = []
    from twhin_core.data import files

    def decode(group_slice: files.RowGroupSlice, original: Any = files._decode) -> Any:
        opened.append((group_slice.url, group_slice.group))
        return original(group_slice)

    monkeypatch.setattr(files, "_decode", decode)
    assert sorted(numbers(windows)) == list(range(410))
    assert len(opened) == len(set(opened)) == 3


def test_a_window_with_all_edges_is_kept_for_the_next_epoch(tmp_path: Path) -> None:
    urls = write(tmp_path, [[30]])
    windows = open_windows(urls, 100)
    first = numbers(windows)
    Path(urls[0]).unlink()
    assert sorted(numbers(windows, epochs=2)[30:]) == sorted(first)


def test_steps_in_order_follow_the_data_set(tmp_path: Path) -> None:
    windows = open_windows(write(tmp_path, [[4], [0, 3]]), buffer=2)
    steps = EpochReader(windows, 3).steps_in_order()
    assert [list(step.edges.lhs) for step in steps] == [[0, 1, 2], [3, 4, 5], [6]]


def test_chunks_are_all_edges_in_data_set_order(tmp_path: Path) -> None:
    files = EdgeFiles(write(tmp_path, [[4], [0, 300]]), SCHEMA, offset=2, limit=290)
    chunks = list(files.chunks())
    assert np.concatenate([chunk.lhs for chunk in chunks]).tolist() == list(range(2, 292))
    assert not chunks[0].lhs.flags.owndata, "a view of what Arrow decoded"
    whole: Edges = files.all()
    assert whole.lhs.tolist() == list(range(2, 292))


def test_memory_is_bounded_and_windows_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = EdgeFiles(write(tmp_path, [[10] * 4] * 3), SCHEMA)
    windows = Windows(files, seed=0, buffer=10, held=2)
    loaded: list[int] = []
    original = files.load
    monkeypatch.setattr(files, "load", lambda parts: (loaded.append(parts[0].number), original(parts))[1])
    for number in (0, 1, 0, 1, 2, 1, 2, 0):
        assert windows.get((0, number)).begin == number * 10
        assert len(windows._held) <= 2
    assert len(loaded) == 4, "0, 1, 2 and 0 again"
