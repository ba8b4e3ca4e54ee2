"""The steps of a rank: which positions of an epoch it takes, and the edges there, wherever they are read.

An epoch is cut into steps of `batch_size · world_size` edges, and each step into ranks. So what makes a step depends on
that product alone: two ranks of B see in every step what one rank of 2B sees. Every rank has the same number of steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from twhin_core import limits
from twhin_core.data.edges import Edges
from twhin_core.data.prefetch import Ahead
from twhin_core.data.windows import IN_ORDER, EpochWindow, Windows

Remainder = Literal["short", "drop"]

EDGES_PER_CHUNK = 65_536
"""Edges of a rank that are made or sent at once; what a step takes is cut from them."""

CHUNKS_AHEAD = 8
"""Enough to train on while a window is read."""


@dataclass(frozen=True)
class Shares:
    """The positions of an epoch that a rank takes: its share of each step of `step_size` edges from `start` to `stop`.

    The last step may be shorter. In one with fewer edges than there are ranks, a rank without any takes the first.
    """

    start: int
    stop: int
    step_size: int
    rank: int
    world_size: int

    def share(self, edges: int) -> tuple[int, int]:
        """First and last edge (exclusive) of the rank's share of a step of so many edges; the same twice if none."""
        each, more = divmod(edges, self.world_size)
        first = self.rank * each + min(self.rank, more)
        return first, first + each + (self.rank < more)

    def positions(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Those of the rank in [begin, end), which lies in [start, stop)."""
        if self.world_size == 1:
            return np.arange(begin, end)
        first_step, last_step = (begin - self.start) // self.step_size, (end - 1 - self.start) // self.step_size
        starts = self.start + self.step_size * np.arange(first_step, last_step + 1)
        whole = starts[starts + self.step_size <= self.stop]
        first, last = self.share(self.step_size)
        found = (whole[:, None] + np.arange(first, last)).ravel()
        if len(whole) < len(starts):
            first, last = self.share(self.stop - int(starts[-1]))
            found = np.append(found, starts[-1] + (np.arange(first, last) if first < last else [0]))
        return found[np.searchsorted(found, begin) : np.searchsorted(found, end)]


@dataclass(frozen=True)
class Request:
    """A rank's edges in a window of an epoch, from position `begin` on."""

    epoch: int
    window: int
    begin: int
    end: int
    shares: Shares


class Source(Protocol):
    """Where edges are read: in this process, or in others."""

    def read(self, requests: Iterable[Request]) -> Iterator[Edges]:
        """The edges of the requests, one after the other, in chunks that have nothing to do with steps."""


def chunks_of(windows: Windows, request: Request) -> Iterator[tuple[int, EpochWindow, npt.NDArray[np.int64]]]:
    """The chunks of a request: the position to go on from after each, its window, and its positions there.

    May raise, as `Windows.get`.
    """
    begin = request.begin
    while begin < request.end:
        end = min(begin + EDGES_PER_CHUNK * request.shares.world_size, request.end)
        yield end, windows.get((request.epoch, request.window)), request.shares.positions(begin, end)
        begin = end


def read_chunks(windows: Windows, request: Request) -> Iterator[tuple[int, Edges]]:
    """The edges of a request in chunks, each with the position to go on from after it. May raise, as `Windows.get`."""
    for end, window, positions in chunks_of(windows, request):
        yield end, window.take(positions)


def gathering_threads() -> int:
    """How many threads gather the edges of chunks: a GPU takes more than one can make, and a small machine has none
    to spare."""
    return max(1, min(4, limits.cores() // 4))


class InProcess:
    """Edges read in this process."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def read(self, requests: Iterable[Request]) -> Iterator[Edges]:
        with ThreadPoolExecutor(gathering_threads(), "gather") as pool:
            # One thread alone asks for windows, in their order, so that each is read once.
            chunks = (
                pool.submit(window.take, positions)
                for request in requests
                for _, window, positions in chunks_of(self._windows, request)
            )
            with Ahead(chunks, CHUNKS_AHEAD) as gathered:
                for chunk in gathered:
                    yield chunk.result()


class State(TypedDict):
    """Where reading stands: `edges` of `epoch` are taken, by all ranks together."""

    epoch: int
    edges: int


@dataclass(frozen=True)
class Step:
    """What one rank takes in one step."""

    edges: Edges
    """This rank's; if the step has fewer edges than there are ranks, an edge of weight 0 stands for none."""
    step_edges: int
    """Edges of all ranks together."""
    epoch: int
    first: int
    """Edges of the epoch that earlier steps took."""

    @property
    def after(self) -> State:
        return State(epoch=self.epoch, edges=self.first + self.step_edges)


class EpochReader:
    """A rank's steps of `batch_size` edges, addressed by (epoch, edges of it taken before, rank, world size).

    The seed and the split are those of `windows`. Iterating gives the steps of `num_epochs` epochs, from the state on
    that was loaded, or else from the beginning.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        remainder: Remainder = "short",
        source: Source | None = None,
    ) -> None:
        """`remainder`: what is left of an epoch makes a short last step or is dropped; `source`: in process if None."""
        self._windows, self._source = windows, source or InProcess(windows)
        self._step_size = batch_size * world_size
        self._rank, self._world_size = rank, world_size
        self._drops = remainder == "drop"
        self.num_edges = len(windows.files)
        self._state = State(epoch=0, edges=0)

    def state_dict(self) -> State:
        """Where the steps given so far lead to; on any number of ranks, reading goes on from there."""
        return State(**self._state)

    def load_state_dict(self, state: State) -> None:
        self._state = State(**state)

    def stop(self, first: int) -> int:
        """The position where an epoch's last step ends, if steps are taken from position `first` on."""
        left = (self.num_edges - first) % self._step_size
        return self.num_edges - left if self._drops else self.num_edges

    def steps_left(self, num_epochs: int) -> int:
        """How many `steps` gives."""
        epoch, first = self._state["epoch"], self._state["edges"]
        return self._in_epoch(first) + (num_epochs - epoch - 1) * self._in_epoch(0) if epoch < num_epochs else 0

    def _in_epoch(self, first: int) -> int:
        return -(-(self.stop(first) - first) // self._step_size)

    def steps(self, num_epochs: int) -> Iterator[Step]:
        """The steps left of the epochs before `num_epochs`."""
        for step in self._steps(range(self._state["epoch"], num_epochs), self._state["edges"]):
            self._state = step.after
            yield step

    def steps_in_order(self) -> Iterator[Step]:
        """The steps of one pass in data set order; the state stays as it is."""
        yield from self._steps(range(IN_ORDER, IN_ORDER + 1))

    def _steps(self, epochs: range, start: int = 0) -> Iterator[Step]:
        """The steps of the epochs, of the first from position `start` on."""
        chunks = _Cutter(self._source.read(self._requests(epochs, start)))
        for epoch in epochs:
            start = start if epoch == epochs[0] else 0
            shares = self._shares(start)
            for first in range(start, shares.stop, self._step_size):
                step_edges = min(self._step_size, shares.stop - first)
                mine, end = shares.share(step_edges)
                edges = chunks.take(max(end - mine, 1))
                if mine == end:
                    edges = Edges(edges.lhs, edges.rel, edges.rhs, np.zeros_like(edges.weight))
                yield Step(edges, step_edges, epoch, first)

    def _requests(self, epochs: range, start: int) -> Iterator[Request]:
        for epoch in epochs:
            shares = self._shares(start if epoch == epochs[0] else 0)
            bounds = self._windows.bounds(epoch).tolist()
            for window, (begin, end) in enumerate(itertools.pairwise(bounds)):
                begin, end = max(begin, shares.start), min(end, shares.stop)
                if begin < end:
                    yield Request(epoch, window, begin, end, shares)

    def _shares(self, start: int) -> Shares:
        return Shares(start, self.stop(start), self._step_size, self._rank, self._world_size)


class _Cutter:
    """Cuts chunks into pieces of the lengths asked for; a piece within one chunk is a view of it."""

    def __init__(self, chunks: Iterator[Edges]) -> None:
        self._chunks = chunks
        self._rest: Edges | None = None

    def take(self, count: int) -> Edges:
        """The next `count` edges, at least one."""
        pieces = []
        while count:
            chunk = next(self._chunks) if self._rest is None else self._rest
            pieces.append(chunk.take(slice(0, count)))
            count -= len(pieces[-1])
            self._rest = chunk.take(slice(len(pieces[-1]), None)) if len(pieces[-1]) < len(chunk) else None
        return type(pieces[0]).joined(pieces)
