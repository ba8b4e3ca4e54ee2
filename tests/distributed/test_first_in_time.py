"""What only the first rank does may take longer than ranks wait for each other."""

from __future__ import annotations

import time
from datetime import timedelta

import torch

from tests.ranks import run_ranks
from twhin_core.distributed import ranks


def long_work() -> tuple[int, float]:
    ranks.TIMEOUT, ranks.WAIT_SECONDS = timedelta(seconds=2), 0.3
    with ranks.process_group() as group:

        def make() -> int:
            time.sleep(3)
            return group.rank + 7

        made = group.of_first_in_time(make)
        return made, group.sum(torch.tensor(1.0, device=group.device))


def test_the_others_wait() -> None:
    assert run_ranks(2, long_work) == [(7, 2.0), (7, 2.0)]
