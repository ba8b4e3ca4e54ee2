"""Reads shuffled edges onto a GPU: the host reads and permutes row numbers, the GPU gathers the edges.

A host thread gathers shuffled edges at a fraction of the rate at which a GPU trains on them. Here the GPU receives each
window in data set order together with its permutation, and gathers it at once; a step's edges are then a slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from twhin_core import limits
from twhin_core.data.edges import Edges
from twhin_core.data.epochs import Request
from twhin_core.data.prefetch import Ahead
from twhin_core.data.windows import Windows
from twhin_core.model.device_edges import DeviceEdges

WINDOWS_AHEAD = 6
"""The most windows read at the same time. One thread permutes edges at half the rate at which a GPU trains on them."""


def reading_threads() -> int:
    """How many windows are read at the same time, and so held in memory."""
    return max(1, min(WINDOWS_AHEAD, limits.cores() // 3))


class OnDevice:
    """Reads edges of this process's windows onto a device; a rank alone may use it, since it takes whole windows."""

    def __init__(self, windows: Windows, device: torch.device) -> None:
        self._windows, self._device = windows, device

    def read(self, requests: Iterable[Request]) -> Iterator[DeviceEdges]:
        """The edges of the requests, in order. May raise, as `Windows.get`."""
        with (
            ThreadPoolExecutor(reading_threads(), "window") as pool,
            Ahead((pool.submit(self._load, request) for request in requests), reading_threads()) as windows,
        ):
            for window in windows:
                yield window.result()

    def _load(self, request: Request) -> DeviceEdges:
        window = self._windows.get((request.epoch, request.window))
        rows = slice(request.begin - window.begin, request.end - window.begin)
        is_cuda = self._device.type == "cuda"
        with torch.cuda.stream(torch.cuda.Stream(self._device)) if is_cuda else nullcontext():
            if window.order is None:
                edges = _copied(window.edges.take(rows), self._device)
            else:
                whole, order = _copied(window.edges, self._device), torch.from_numpy(window.order[rows])
                index = order.to(self._device)
                edges = whole.each(lambda column: column.index_select(0, index))
            return replace(edges, ready=torch.cuda.current_stream().record_event()) if is_cuda else edges


def _copied(edges: Edges, device: torch.device) -> DeviceEdges:
    """Copies of the edges' columns."""
    lhs, rel, rhs = (torch.from_numpy(np.asarray(column)).to(device) for column in (edges.lhs, edges.rel, edges.rhs))
    if edges.weight.strides == (0,) and len(edges):  # all weigh the same
        weight = torch.full((len(edges),), float(edges.weight[0]), device=device)
    else:
        weight = torch.from_numpy(edges.weight).to(device)
    return DeviceEdges(lhs, rel, rhs, weight)
