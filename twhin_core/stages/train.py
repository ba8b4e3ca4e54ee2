"""The train stage: learns the embeddings from the edges of the graph."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from twhin_core import libraries
from twhin_core.config import Config
from twhin_core.durations import measured
from twhin_core.progress import log_of
from twhin_core.run import working
from twhin_core.stages.track import tracking


def train(config: Config, root: str, readers: Sequence[str] = ()) -> None:
    """Trains the run at `root` to the end, resuming from the newest complete checkpoint.

    Every rank calls this; the first one holds the lease.

    Args:
        readers: addresses of the processes that read the training edges. If empty, each rank reads its own.

    Raises:
        UserError: as `Trainer`, or a library that it needs does not load.
        Preempted, CheckpointFailed, ReadersLost: as `Trainer`.
    """
    log_of(run=root, stage="train")
    libraries.check()
    from twhin_core.distributed.ranks import process_group
    from twhin_core.stages.old_checkpoints import keep_after_success
    from twhin_core.training.trainer import Trainer

    with process_group() as ranks, working(config, root, "train") if ranks.is_first else contextlib.nullcontext():
        ranks.wait()  # until the first rank has claimed the root
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            sinks = [stack.enter_context(tracking(config, root))] if ranks.is_first else []
            trainer = Trainer(config, root, ranks, readers, sinks)
            if ranks.is_first and trainer.has_steps_left:
                resumes = trainer.newest is not None
                stack.enter_context(measured(root, "train", started, resumes, ranks.machines))
            trainer.run()
        if ranks.is_first:
            keep_after_success(config, root, "train")
