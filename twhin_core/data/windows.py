"""The order of edges in an epoch: row groups are shuffled and grouped into windows, which are shuffled in memory.

    row groups of the files     A A A A B B B C C C D D D D D ...
    shuffled by (seed, epoch)   C C C A A A A │ D D D D D │ B B B ...       │ windows of at most `shuffle_buffer` edges
    each window shuffled        A C A A C C A │ D D D D D │ B B B ...       by (seed, epoch, window)

So a position in an epoch determines its edge, and reading it only takes its window. Windows end with row groups, so
each row group is read once; only a row group larger than a window is divided. A split that fits in one window is
shuffled completely, and stays in memory for all epochs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twhin_core.data.edges import Edges
from twhin_core.data.files import EdgeFiles, SliceRange

IN_ORDER = -1
"""The pseudo-epoch in data set order."""

IN_ORDER_BUFFER = 262_144
"""Edges per window of `IN_ORDER`."""

Address = tuple[int, int]
"""The epoch and the number of a window."""


@dataclass(frozen=True)
class EpochWindow:
    """The edges of a window, which starts at position `begin` of its epoch."""

    begin: int
    edges: Edges
    order: npt.NDArray[np.int32] | None

    def take(self, positions: npt.NDArray[np.int64]) -> Edges:
        """The edges at the given positions of the epoch, in new arrays."""
        rows = positions - self.begin
        if self.order is None:
            return self.edges.take(rows)
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:  # contiguous, as they are for a single rank
            return self.edges.take(self.order[rows[0] : rows[-1] + 1])
        return self.edges.take(self.order[rows])


class Windows:
    """The windows of a data set's epochs. An LRU cache keeps some in memory; concurrent threads share a read."""

    def __init__(self, files: EdgeFiles, seed: int, buffer: int, held: int = 1) -> None:
        """`buffer`: maximum edges per window; `held`: maximum number of windows in memory."""
        self.files = files
        self._seed, self._buffer, self._capacity = seed, buffer, held
        self._lock = threading.Lock()
        self._epochs: dict[int, _Epoch] = {}
        self._held: dict[Address, Future[EpochWindow]] = {}
        self._all: Edges | None = None

    def bounds(self, epoch: int) -> npt.NDArray[np.int64]:
        """The positions at which the windows of an epoch start, followed by the number of edges."""
        return self._epoch(epoch).bounds

    def get(self, address: Address) -> EpochWindow:
        """A window, from memory or the files. Evicts others before it is read. Raises as `EdgeFiles.load`."""
        with self._lock:
            found = self._held.pop(address, None)
            future = found or Future()
            while len(self._held) >= self._capacity:
                del self._held[next(iter(self._held))]  # the least recently used
            self._held[address] = future
        if found is None:
            try:
                future.set_result(self._load(address))
            except BaseException as error:
                with self._lock:
                    self._held.pop(address, None)
                future.set_exception(error)
                raise
        return future.result()

    def _load(self, address: Address) -> EpochWindow:
        epoch, number = address
        begin, end = (int(position) for position in self.bounds(epoch)[number : number + 2])
        edges = self._all
        if edges is None:
            edges = self.files.load(self._epoch(epoch).parts(begin, end))
            if end - begin == len(self.files):
                self._all = edges
        if epoch == IN_ORDER:
            return EpochWindow(begin, edges, None)
        generator = np.random.default_rng([self._seed, epoch, 1 + number])  # numpy ignores a trailing 0 in a seed
        return EpochWindow(begin, edges, generator.permutation(np.arange(end - begin, dtype=np.int32)))

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:
            if epoch not in self._epochs:
                lengths = self.files.lengths
                order = np.arange(len(lengths))
                buffer = IN_ORDER_BUFFER if epoch == IN_ORDER else self._buffer
                if epoch != IN_ORDER and lengths.sum() > buffer:
                    order = np.random.default_rng([self._seed, epoch]).permutation(order)
                self._epochs = {known: self._epochs[known] for known in list(self._epochs)[-2:]}
                self._epochs[epoch] = _Epoch(order, lengths, buffer)
            return self._epochs[epoch]


class _Epoch:
    """The order of slices in an epoch, and their division into windows."""

    def __init__(self, order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], buffer: int) -> None:
        self._order, self._ends = order, np.cumsum(lengths[order])
        self.bounds = np.array([0, *self._cut(buffer)], np.int64)

    def _cut(self, buffer: int) -> Iterator[int]:
        begin, total = 0, int(self._ends[-1]) if len(self._ends) else 0
        while begin < total:
            slices = int(np.searchsorted(self._ends, begin + buffer, side="right"))  # those that end in the window
            end = int(self._ends[slices - 1]) if slices else 0
            begin = end if end > begin else begin + buffer
            yield begin

    def parts(self, begin: int, end: int) -> list[SliceRange]:
        """The slices, or parts of them, at the positions [begin, end)."""
        parts = []
        for number in range(int(np.searchsorted(self._ends, begin, side="right")), len(self._ends)):
            last = int(self._ends[number])
            first = int(self._ends[number - 1]) if number else 0
            if first >= end:
                break
            parts.append(SliceRange(int(self._order[number]), max(begin, first) - first, min(end, last) - first))
        return parts
