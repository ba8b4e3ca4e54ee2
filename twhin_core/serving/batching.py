"""Joins the queries of concurrent requests into one search.

While a search runs, the queries that arrive wait; the next search takes all that ask alike. A lone query thus never
waits for others, and under load a search serves many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Question = TypeVar("Question", bound=Hashable)
Node = TypeVar("Node")
Answer = TypeVar("Answer")

LARGEST = 256
"""The most queries of a search."""


class Batcher(Generic[Question, Node, Answer]):
    """Asks questions about nodes: those of one question together, in the one thread of `executor`."""

    def __init__(
        self,
        search: Callable[[Question, Sequence[Node]], Sequence[Answer]],
        executor: Executor,
        observe: Callable[[int], None],
    ) -> None:
        """
        Args:
            search: answers a question about each of some nodes.
            observe: is told how many queries each search has.
        """
        self._search, self._executor, self._observe = search, executor, observe
        self._waiting: dict[Question, list[tuple[Node, asyncio.Future[Answer]]]] = {}
        self._runner: asyncio.Task[None] | None = None

    def ask(self, question: Question, node: Node) -> asyncio.Future[Answer]:
        """The answer, or the error that the search raised."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(question, []).append((node, answer))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return answer

    async def _run(self) -> None:
        while self._waiting:
            question, asked = next(iter(self._waiting.items()))  # the one that has waited longest
            del self._waiting[question]
            if asked[LARGEST:]:
                self._waiting[question] = asked[LARGEST:]
            await self._answer(question, [of for of in asked[:LARGEST] if not of[1].done()])
        self._runner = None

    async def _answer(self, question: Question, asked: Sequence[tuple[Node, asyncio.Future[Answer]]]) -> None:
        if not asked:
            return
        self._observe(len(asked))
        nodes = [node for node, _ in asked]
        search = asyncio.get_running_loop().run_in_executor(self._executor, self._search, question, nodes)
        await asyncio.wait([search])
        error = search.exception()
        for number, (_, answer) in enumerate(asked):
            if answer.done():  # its request was cancelled
                continue
            if error is None:
                answer.set_result(search.result()[number])
            else:
                answer.set_exception(error)
