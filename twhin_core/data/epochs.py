"""The steps of a rank: which positions of an epoch it takes, and the edges at these positions.

An epoch is divided into steps of `batch_size · world_size` edges, and each step among the ranks. So the edges of a step
only depend on that product: two ranks with batches of B process the same steps as one rank with batches of 2B. All
ranks have the same number of steps.
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
"""Edges of a rank that are gathered or sent at once; steps are cut from these chunks."""

CHUNKS_AHEAD = 8
"""Enough to continue training while a window is read."""


@dataclass(frozen=True)
class Shares:
    """The positions of an epoch that a rank takes: its share of each step of `step_size` edges from `start` to `stop`.

    The last step may be shorter. If it has fewer edges than there are ranks, a rank without edges takes the first edge.
    """

    start: int
    stop: int
    step_size: int
    rank: int
    world_size: int

    def share(self, edges: int) -> tuple[int, int]:
        """The range [first, last) of the rank's share of a step with `edges` edges; may be empty."""
        each, more = divmod(edges, self.world_size)
        first = self.rank * each + min(self.rank, more)
        return first, first + each + (self.rank < more)

    def positions(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """The rank's positions in [begin, end), which lies in [start, stop)."""
        if self.world_size == 1:
            return np.arange(begin, end)
        first_step, last_step = (begin - self.start) // self.step_size, (end - 1 - self.start) // self.step_size
        starts = self.start + self.step_size * np.arange(first_step, last_step + 1)
        full = starts[starts + self.step_size <= self.stop]
        first, last = self.share(self.step_size)
        found = (full[:, None] + np.arange(first, last)).ravel()
        if len(full) < len(starts):
            first, last = self.share(self.stop - int(starts[-1]))
            found = np.append(found, starts[-1] + (np.arange(first, last) if first < last else [0]))
        return found[np.searchsorted(found, begin) : np.searchsorted(found, end)]


@dataclass(frozen=True)
class Request:
    """A request for a rank's edges at the positions [begin, end) of an epoch, which lie in one window."""

    epoch: int
    window: int
    begin: int
    end: int
    shares: Shares


class EdgeReader(Protocol):
    """Reads edges in this process or from others."""

    def read(self, requests: Iterable[Request]) -> Iterator[Edges]:
        """The edges of the requests in order, in chunks of any size."""


def chunks_of(windows: Windows, request: Request) -> Iterator[tuple[int, EpochWindow, npt.NDArray[np.int64]]]:
    """The chunks of a request: the position after each, its window, and its positions in the epoch.

    Raises as `Windows.get`.
    """
    begin = request.begin
    while begin < request.end:
        end = min(begin + EDGES_PER_CHUNK * request.shares.world_size, request.end)
        yield end, windows.get((request.epoch, request.window)), request.shares.positions(begin, end)
        begin = end


def read_chunks(windows: Windows, request: Request) -> Iterator[tuple[int, Edges]]:
    """The edges of a request in chunks, each with the position after it. Raises as `Windows.get`."""
    for end, window, positions in chunks_of(windows, request):
        yield end, window.take(positions)


class InProcess:
    """Reads edges in this process."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def read(self, requests: Iterable[Request]) -> Iterator[Edges]:
        # One thread cannot gather edges as fast as a GPU processes them, but a small machine has no cores to spare.
        threads = max(1, min(4, limits.cores() // 4))
        with ThreadPoolExecutor(threads, "gather") as pool:
            # Only one thread requests windows, in order, so that each is read once.
            chunks = (
                pool.submit(window.take, positions)
                for request in requests
                for _, window, positions in chunks_of(self._windows, request)
            )
            with Ahead(chunks, CHUNKS_AHEAD) as gathered:
                for chunk in gathered:
                    yield chunk.result()


class State(TypedDict):
    """A position in training: all ranks together have taken `edges` edges of `epoch`."""

    epoch: int
    edges: int


@dataclass(frozen=True)
class Step:
    """One step of one rank."""

    edges: Edges
    """The rank's edges. If it has none, because the step has fewer edges than ranks, an edge of weight 0."""
    step_edges: int
    """The number of edges of all ranks together."""
    epoch: int
    first: int
    """The position of the step in its epoch."""

    @property
    def after(self) -> State:
        return State(epoch=self.epoch, edges=self.first + self.step_edges)


class EpochReader:
    """The steps of a rank, with `batch_size` edges each. A step is addressed by (epoch, position, rank, world size).

    The seed and the edges are those of `windows`. Reading starts at the loaded state, or else at the beginning.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        remainder: Remainder = "short",
        reader: EdgeReader | None = None,
    ) -> None:
        """
        Args:
            remainder: whether the last edges of an epoch form a shorter step or are dropped.
            reader: reads the edges; `InProcess` by default.
        """
        self._windows, self._reader = windows, reader or InProcess(windows)
        self._step_size = batch_size * world_size
        self._rank, self._world_size = rank, world_size
        self._drops = remainder == "drop"
        self.num_edges = len(windows.files)
        self._state = State(epoch=0, edges=0)

    def state_dict(self) -> State:
        """The position after the steps so far. Any number of ranks can resume from it."""
        return State(**self._state)

    def load_state_dict(self, state: State) -> None:
        self._state = State(**state)

    def stop(self, first: int) -> int:
        """The position at which an epoch's last step ends, if its first step starts at `first`."""
        left = (self.num_edges - first) % self._step_size
        return self.num_edges - left if self._drops else self.num_edges

    def steps_left(self, num_epochs: int) -> int:
        """The number of steps that `steps` yields."""
        epoch, first = self._state["epoch"], self._state["edges"]
        return self._steps_from(first) + (num_epochs - epoch - 1) * self._steps_from(0) if epoch < num_epochs else 0

    def _steps_from(self, first: int) -> int:
        return -(-(self.stop(first) - first) // self._step_size)

    def steps(self, num_epochs: int) -> Iterator[Step]:
        """The remaining steps of `num_epochs` epochs."""
        for step in self._steps(range(self._state["epoch"], num_epochs), self._state["edges"]):
            self._state = step.after
            yield step

    def steps_in_order(self) -> Iterator[Step]:
        """The steps of one pass in data set order. Does not change the state."""
        yield from self._steps(range(IN_ORDER, IN_ORDER + 1))

    def _steps(self, epochs: range, start: int = 0) -> Iterator[Step]:
        """The steps of the epochs; the first epoch starts at position `start`."""
        chunks = _Cutter(self._reader.read(self._requests(epochs, start)))
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
    """Cuts chunks into pieces of given lengths. A piece within one chunk is a view of it."""

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
