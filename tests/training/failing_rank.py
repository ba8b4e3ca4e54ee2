"""`python -m tests.training.failing_rank CONFIG ROOT`: a rank of a run in which rank 1 fails after some steps."""

from __future__ import annotations

import os
import sys

from twhin_core.config import file as config_file
from twhin_core.progress import show_log
from twhin_core.stages import train
from twhin_core.training.optimizers import Optimizers

if __name__ == "__main__":
    show_log()
    begin, taken = Optimizers.start, 0

    def start(optimizers: Optimizers) -> None:
        global taken  # noqa: PLW0603 -- counts the steps of this process
        taken += 1
        if taken == 4 and os.environ["RANK"] == "1":
            raise RuntimeError("the third step was the last of rank 1")
        begin(optimizers)

    Optimizers.start = start  # type: ignore[method-assign]
    train.train(config_file.load(sys.argv[1]), sys.argv[2])
