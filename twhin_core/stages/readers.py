"""Decides from the environment whether this process trains or reads edges for the trainers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from twhin_core.errors import UserError

if TYPE_CHECKING:
    from twhin_core.config import Config

TASK_TYPE, BIND, READERS = "TWHIN_TASK_TYPE", "TWHIN_BIND", "TWHIN_READERS"
LOOPBACK = "127.0.0.1:2222"
"""Default of `TWHIN_BIND`, the address on which a reader listens."""
POOL = "workerpool2"
"""Vertex AI's worker pool for readers. Vertex AI reserves it for parameter servers."""


def is_reader(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a reader, according to `TWHIN_TASK_TYPE` or its pool on Vertex AI.

    Raises:
        UserError: an unknown task type, or an invalid `CLUSTER_SPEC`.
    """
    from twhin_core.distributed.nodes import read_cluster_spec

    task = environment.get(TASK_TYPE, "chief")
    if task not in ("chief", "reader"):
        raise UserError(f"{TASK_TYPE}: {task!r} must be chief or reader")
    return task == "reader" or ("CLUSTER_SPEC" in environment and read_cluster_spec(environment).task.type == POOL)


def serve_if_reader(config: Config, root: str) -> bool:
    """If this process is a reader, serves the training edges until SIGTERM; otherwise returns False at once.

    Raises:
        UserError: as `is_reader` and `serve`.
    """
    if not is_reader():
        return False
    from twhin_core.data.serve import serve

    serve(config, root, os.environ.get(BIND, LOOPBACK))
    return True


def find_readers(given: str | None = None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The readers' addresses: `given` as `HOST:PORT,…` or in `TWHIN_READERS`, else those of Vertex AI's pool.

    Raises:
        UserError: an invalid or repeated address, or an invalid `CLUSTER_SPEC`.
    """
    from twhin_core.data.readers import parse_readers
    from twhin_core.distributed.nodes import read_cluster_spec

    addresses = parse_readers(environment.get(READERS) if given is None else given)
    if not addresses and "CLUSTER_SPEC" in environment:
        return read_cluster_spec(environment).cluster.get(POOL, [])
    return addresses
