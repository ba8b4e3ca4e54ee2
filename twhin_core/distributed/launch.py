"""Starts this machine's ranks of a stage with torchrun's agent, and reports their exit code.

The exit code tells a platform whether to retry: 2 for an error that the user must fix, 75 after a preemption, 1 for
anything else.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from twhin_core import limits
from twhin_core.distributed.nodes import Nodes, find_nodes
from twhin_core.distributed.parent import end_with_parent
from twhin_core.errors import Preempted, TwhinError, UserError
from twhin_core.progress import log, log_of, show_error, show_log

RENDEZVOUS_TIMEOUT = 900
"""Seconds to wait for the other machines, which may be scheduled later."""
SHUTDOWN_TIMEOUT = 24 * 3600
"""Seconds that ranks may take to stop after SIGTERM: longer than the platform's grace period, which decides."""

AGENT_LOG = logging.getLogger("torch.distributed.elastic.agent.server.api")


class RanksFailed(TwhinError):
    """Ranks have failed; their own output precedes this error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def launch(stage: Callable[..., object], *arguments: Any) -> None:
    """Calls `stage(*arguments)` on all ranks that the environment asks for; a single rank runs in this process.

    `stage` must be importable.

    Raises:
        UserError: the environment is inconsistent.
        Preempted: SIGTERM was received and passed on to the ranks.
        RanksFailed: ranks of this machine have failed; it carries the exit code of the cause.
    """
    log_of(stage=stage.__name__)
    nodes = find_nodes()
    if nodes.world_size == 1:
        for name in ("RANK", "WORLD_SIZE"):  # Vertex AI sets them per machine, readers included
            os.environ.pop(name, None)
        stage(*arguments)
        return
    limits.use_cores(nodes.ranks_per_node)  # else torchrun gives each rank a single thread
    log.info("launch: node %d of %d, ranks here: %d", nodes.index + 1, nodes.count, nodes.ranks_per_node)
    AGENT_LOG.addFilter(_is_no_exit_barrier_error)
    try:
        elastic_launch(_agent(nodes), _rank)(stage, arguments, log.isEnabledFor(logging.DEBUG))
    except SignalException:
        raise Preempted("SIGTERM: stopped; run it again to resume from there") from None
    except ChildFailedError as error:
        raise _cause(error) from None


def _agent(nodes: Nodes) -> LaunchConfig:
    alone = nodes.count == 1
    return LaunchConfig(
        min_nodes=nodes.count,
        max_nodes=nodes.count,
        nproc_per_node=nodes.ranks_per_node,
        run_id="twhin",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="127.0.0.1:0" if alone else f"{nodes.host}:{nodes.port}",  # port 0 picks a free one
        rdzv_configs={"timeout": RENDEZVOUS_TIMEOUT, **({} if alone else {"rank": nodes.index})},
        local_addr="127.0.0.1" if alone else None,
        max_restarts=0,  # the platform restarts failed runs
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )


def _is_no_exit_barrier_error(record: logging.LogRecord) -> bool:
    """Filters out the error that an agent logs if the store on the first node is gone before its exit barrier.

    By then, all ranks of this machine have exited, and their exit codes are known.
    """
    return not record.getMessage().startswith("Error waiting on exit barrier")


def _rank(stage: Callable[..., object], arguments: tuple[Any, ...], debug: bool) -> None:
    """The main function of a rank's process."""
    show_log(debug)
    end_with_parent()
    try:
        stage(*arguments)
    except TwhinError as error:
        show_error(error)
        sys.exit(error.exit_code)


def _cause(error: ChildFailedError) -> RanksFailed:
    """The failure to report. Most ranks fail because another has, so our own exit codes take precedence."""
    codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
    for code in (UserError.exit_code, Preempted.exit_code):
        if code in codes.values():
            return RanksFailed("a rank of this machine has exited; its own message says why", code)
    rank, code = next(iter(codes.items()))
    end = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}; its output is above"
    return RanksFailed(f"local rank {rank} exited {end}", 1)
