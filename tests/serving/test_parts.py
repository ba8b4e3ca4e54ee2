"""Parts of the server alone: ids and known edges in memory, joined searches, and limits."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from twhin_core.config import Relation
from twhin_core.data.files import EdgeFiles
from twhin_core.errors import UserError
from twhin_core.parquet import StoredFile
from twhin_core.schema import Schema
from twhin_core.serving.batching import LARGEST, Batcher
from twhin_core.serving.limits import BODY_BYTES, Guarded
from twhin_core.vectors.adjacency import read_adjacencies
from twhin_core.vectors.held import hold_ids
from twhin_core.vectors.ids import Ids, ListedIds, NumberedIds, StoredIds

NAMES = st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1, max_size=40, unique=True)


def by_hash(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: hashlib.md5(name.encode(), usedforsecurity=False).digest())


@settings(max_examples=30)
@given(NAMES, NAMES, st.sampled_from(["hashed", "two runs", "gaps", "listed"]))
def test_held_ids_are_found_and_named_as_a_list_has_them(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], others: list[str], kind: str
) -> None:
    path, cut = tmp_path_factory.mktemp("ids") / "ids.parquet", len(names) // 2
    if kind != "listed":
        names = by_hash(names[:cut]) + by_hash(names[cut:]) if kind == "two runs" else by_hash(names)
    index = np.arange(len(names)) * (2 if kind == "gaps" else 1)
    pq.write_table(pa.table({"index": index, "id": names}), path)
    runs = {"hashed": [len(names)], "two runs": [cut, len(names) - cut], "gaps": [2 * len(names)], "listed": None}
    stored = StoredIds([StoredFile(str(path), len(names))], "ids", runs[kind], kind == "gaps")
    held = hold_ids(ListedIds([str(path)], "ids") if kind == "listed" else stored)
    assert held.size == len(names)
    for name in {*names, *others}:
        assert held.find(name) == (names.index(name) if name in names else None)
    positions = np.arange(len(names))[::-1]
    assert held.at(positions) == names[::-1]
    assert [name for batch in held.batches(7) for name in batch["id"].to_pylist()] == names
    assert [row for batch in held.batches(7) for row in batch["index"].to_pylist()] == index.tolist()


def test_numbers_are_held_as_they_are() -> None:
    held: Ids = hold_ids(NumberedIds(5))
    assert (held.find("4"), held.find("5"), held.at(np.array([3]))) == (4, None, ["3"])


EDGES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=60)


@settings(max_examples=40)
@given(EDGES, st.integers(1, 9))
def test_known_edges_are_those_of_the_files(
    tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int, int]], rows_per_group: int
) -> None:
    folder = tmp_path_factory.mktemp("edges")
    lhs, rel, rhs = (list(column) for column in zip(*edges, strict=True))
    table = pa.table({"lhs": lhs, "rel": pa.array(rel, pa.int32()), "rhs": rhs})
    pq.write_table(table, folder / "edges.parquet", row_group_size=rows_per_group)
    relations = [Relation(name=name, lhs="user", rhs="user") for name in ("follow", "block")]
    files = EdgeFiles([str(folder / "edges.parquet")], schema := Schema({"user": 5}, relations))
    ends = [(0, "lhs"), (1, "rhs"), (0, "rhs")]
    found = read_adjacencies([files, files], schema, ends, folder)  # type: ignore[arg-type]
    for of_rel, side in ends:
        for row in range(5):
            expected = [
                (edge[2] if side == "lhs" else edge[0])
                for edge in edges * 2
                if edge[1] == of_rel and row == (edge[0] if side == "lhs" else edge[2])
            ]
            assert sorted(found[of_rel, side].of(row).tolist()) == sorted(expected)  # type: ignore[index]


def test_queries_that_wait_are_joined_and_each_gets_its_own_answer() -> None:
    searched: list[tuple[str, int]] = []
    first_may_end = threading.Event()

    def search(question: str, nodes: Sequence[int]) -> list[str]:
        searched.append((question, len(nodes)))
        assert first_may_end.wait(30)
        return [f"{question} {node}" for node in nodes]

    async def ask() -> None:
        observed: list[int] = []
        with ThreadPoolExecutor(1) as pool:
            batcher: Batcher[str, int, str] = Batcher(search, pool, observed.append)
            answers = {("a", -1): batcher.ask("a", -1)}
            await asyncio.sleep(0)
            while not searched:
                await asyncio.sleep(0.001)
            answers |= {("b", node): batcher.ask("b", node) for node in range(LARGEST + 44)}
            answers |= {("a", node): batcher.ask("a", node) for node in range(10)}
            answers["b", 7].cancel()
            first_may_end.set()
            for (question, node), answer in answers.items():
                if (question, node) != ("b", 7):
                    assert await answer == f"{question} {node}"
        assert searched == [("a", 1), ("b", LARGEST - 1), ("a", 10), ("b", 44)] or searched == [
            ("a", 1), ("b", LARGEST - 1), ("b", 44), ("a", 10)
        ]  # fmt: skip
        assert observed == [count for _, count in searched]

    asyncio.run(ask())


def test_an_error_of_a_search_reaches_all_who_asked_and_nobody_after_them() -> None:
    def search(question: str, nodes: Sequence[int]) -> list[int]:
        if question == "wrong":
            raise UserError("no")
        return list(nodes)

    async def ask() -> None:
        with ThreadPoolExecutor(1) as pool:
            batcher: Batcher[str, int, int] = Batcher(search, pool, lambda _: None)
            asked = [batcher.ask("wrong", node) for node in range(3)]
            for answer in asked:
                with pytest.raises(UserError, match="no"):
                    await answer
            assert await batcher.ask("right", 5) == 5

    asyncio.run(ask())


class Asked:
    """A request to a guarded app, and what became of it."""

    def __init__(self, guarded: Guarded, path: str = "/score", **headers: str) -> None:
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope: Scope = {"type": "http", "path": path, "headers": sent}
        self.status = 0
        self.answering = asyncio.create_task(guarded(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Message) -> None:
        self.status = message.get("status", self.status)


def test_beyond_the_requests_at_once_the_next_is_told_to_try_again() -> None:
    async def ask() -> None:
        may_end = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await may_end.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        guarded = Guarded(app, None, 3)
        asked = [Asked(guarded) for _ in range(5)]
        probe = Asked(guarded, "/healthz")
        await asyncio.sleep(0.01)
        assert [of.status for of in asked] == [0, 0, 0, 503, 503]
        may_end.set()
        await asyncio.gather(probe.answering, *(of.answering for of in asked))
        assert [of.status for of in asked] == [200, 200, 200, 503, 503]
        assert probe.status == 200
        again = Asked(guarded)
        await again.answering
        assert again.status == 200

    asyncio.run(ask())


@pytest.mark.parametrize(("size", "status"), [(0, 200), (BODY_BYTES, 200), (BODY_BYTES + 1, 413)])
def test_a_body_of_the_largest_size_arrives_as_it_was_sent(size: int, status: int) -> None:
    parts = [b"x" * 1000] * (size // 1000) + [b"y" * (size % 1000)]
    arrived: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask() -> int:
        left = list(parts)
        statuses: list[int] = []

        async def receive() -> Message:
            part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        async def send(message: Message) -> None:
            statuses.append(message.get("status", 0))

        await Guarded(app, None, 1)({"type": "http", "path": "/score", "headers": []}, receive, send)
        return statuses[0]

    assert asyncio.run(ask()) == status
    assert arrived == ([b"".join(parts)] if status == 200 else [])


def test_a_body_that_does_not_arrive_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twhin_core.serving.limits.BODY_SECONDS", 0.05)

    async def ask() -> int:
        statuses: list[int] = []

        async def receive() -> Message:
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: Message) -> None:
            statuses.append(message.get("status", 0))

        await Guarded(None, None, 1)({"type": "http", "path": "/score", "headers": []}, receive, send)  # type: ignore[arg-type]
        return statuses[0]

    started = time.monotonic()
    assert asyncio.run(ask()) == 408
    assert time.monotonic() - started < 30
