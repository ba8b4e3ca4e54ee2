"""Preemption: after a SIGTERM, all ranks stop after the same step."""

from __future__ import annotations

import signal
from types import FrameType

import torch
import torch.distributed as dist

from twhin_core.distributed.ranks import Ranks

STEPS_BETWEEN_VOTES = 10


class Preemption:
    """Catches SIGTERM within its context, and lets all ranks agree on the step after which they stop.

    Ranks vote every `STEPS_BETWEEN_VOTES` steps. The votes are summed while the next step computes and counted after
    it, so that no rank waits for them. A signal to any rank stops all.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._is_single_rank = ranks.world_size == 1
        self._group = None if self._is_single_rank else dist.new_group(backend="gloo")
        self._signalled = False
        self._steps = 0
        self._votes = torch.zeros(1)
        self._counting: dist.Work | None = None

    def __enter__(self) -> Preemption:
        self._handler_before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._count()
        signal.signal(signal.SIGTERM, self._handler_before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def agreed(self) -> bool:
        """Whether to stop now. Every rank must call it after every step; all get the same answer."""
        if self._is_single_rank:
            return self._signalled
        self._steps += 1
        stop = self._count()
        if self._steps % STEPS_BETWEEN_VOTES == 0:
            self._votes = torch.tensor([float(self._signalled)])
            self._counting = dist.all_reduce(self._votes, group=self._group, async_op=True)
        return stop

    def _count(self) -> bool:
        if self._counting is None:
            return False
        self._counting.wait()
        self._counting = None
        return bool(self._votes > 0)
