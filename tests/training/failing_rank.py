"""`python -m tests.training.failing_rank CONFIG ROOT`: a rank of a run in which rank 1 fails after some steps."""

from __future__ import annotations

import os
import sys

from torch import Tensor

from twhin_core import config_file
from twhin_core.model.batch import Batch
from twhin_core.progress import show_log
from twhin_core.training import build, train

if __name__ == "__main__":
    show_log()
    take_step, taken = build.TrainableModel.step, 0

    def step(model: build.TrainableModel, batch: Batch) -> Tensor:
        global taken  # noqa: PLW0603 -- counts the steps of this process
        taken += 1
        if taken == 4 and os.environ["RANK"] == "1":
            raise RuntimeError("the third step was the last of rank 1")
        return take_step(model, batch)

    build.TrainableModel.step = step  # type: ignore[method-assign]
    train.train(config_file.load(sys.argv[1]), sys.argv[2])
