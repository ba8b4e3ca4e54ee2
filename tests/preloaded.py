"""Processes that begin with everything imported that ranks, readers and the command line need.

A process that imports it itself takes seconds of a core.
"""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
# A process has one server, so there is one list for all tests.
CONTEXT.set_forkserver_preload(
    [
        "twhin_core.training.trainer",
        "twhin_core.data.serve",
        "twhin.pipelines.cli",
        "twhin.pipelines.local",
        *(f"twhin_core.stages.{stage}" for stage in ("prepare", "train", "evaluate", "export")),
        "torch._dynamo",  # which PyTorch imports in the first step of an optimizer
    ]
)
