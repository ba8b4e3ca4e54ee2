"""The train stage: learns the embeddings from the edges of the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from twhin_core import libraries
from twhin_core.config import Config
from twhin_core.run import working


def train(config: Config, root: str, readers: Sequence[str] = ()) -> None:
    """Trains the run at `root` to its end, from its newest complete checkpoint if there is one.

    Every rank calls it; the first one holds the lease.

    `readers`: addresses of the processes that read its training edges; without any, it reads them itself.

    Raises:
        UserError: as `Trainer`; or the libraries that it needs do not load.
        Preempted, CheckpointFailed, ReadersLost: as `Trainer`.
    """
    libraries.check()
    from twhin_core.distributed.ranks import process_group
    from twhin_core.training.trainer import Trainer

    with process_group() as ranks, working(config, root, "train") if ranks.is_first else contextlib.nullcontext():
        ranks.wait()  # the others begin when the root is the first one's
        Trainer(config, root, ranks, readers).run()
