"""A run root and the config that made it."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from twhin_core import __version__, lease, storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")
Stage = Callable[Concatenate[Config, str, P], R]

# How a result is measured and written, and what engine makes the graph, may change from one call to the next; what it
# was learned from may not.
REPEATABLE = (
    "test_data", "evaluation", "export", "training.eval_timeout_in_s", "training.readers_timeout_in_s",
    "prepare.engine", "prepare.spark_master", "prepare.memory_limit", "prepare.temp_directory",
)  # fmt: skip


def stage(name: str) -> Callable[[Stage[P, R]], Stage[P, R]]:
    """Makes a function of (config, root, …) the stage `name` of a run: alone at work on it, under a root of its own.

    The function raises besides:
        StorageRefused: the root cannot be written.
        UserError: another process is at work on this stage of the root, or the root was made by another config.
    """

    def decorate(function: Stage[P, R]) -> Stage[P, R]:
        @functools.wraps(function)
        def staged(config: Config, root: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
            with working(config, root, name):
                return function(config, root, *args, **kwargs)

        return staged

    return decorate


@contextlib.contextmanager
def working(config: Config, root: str, name: str) -> Iterator[None]:
    """Holds the lease of the stage `name`, and the root for `config`, while the block runs."""
    with lease.hold(root, name):
        open_run(config, root, name)
        yield


def open_run(config: Config, root: str, name: str = "") -> None:
    """Claims `root` for `config`, or checks that it was made by it: `<root>/config.yaml` holds the resolved config.

    What only measures or writes a result may differ, and so may all while nothing is made yet and nobody but the stage
    `name`, who asks, is at work; the file then holds the newest.

    Raises:
        UserError: the root was made by another config; names the first key that differs. Or another is being made.
    """
    url = storage.join(root, "config.yaml")
    header = f"# The resolved config of this run. twhin {__version__}, revision {_revision()}\n"
    with contextlib.nullcontext() if storage.is_remote(root) else lease.hold(root, "config"):
        while True:
            text, generation = storage.read_generation(url)
            if text:
                made_by = config_file.parse(text, origin=url)
                if made_by == config:
                    return
                _check_differences(made_by, config, root, name)
            if storage.write_if(url, header + config_file.to_yaml(config), generation) is not None:
                return  # else another was faster: it may have been of the same run


def _check_differences(made_by: Config, config: Config, root: str, name: str) -> None:
    for key, before, now in _differences(made_by.model_dump(), config.model_dump()):
        if f"{key}.".startswith(tuple(f"{part}." for part in REPEATABLE)):
            continue
        if _is_made(root):
            raise UserError(
                f"{root}: this run root was made by another config: {key} was {before!r} and is {now!r}; "
                "use another --run-root"
            )
        lease.check_alone(root, name)
        return


def _is_made(root: str) -> bool:
    """Whether there is anything whole under `root` that another config would not have made."""
    return storage.exists(storage.join(root, "graph/manifest.json")) or bool(
        storage.list_folders(storage.join(root, "checkpoints"))
    )


def _differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for name in {**before, **now}
            for difference in _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            difference
            for position, (one, other) in enumerate(zip(before, now, strict=True))
            for difference in _differences(one, other, f"{key}.{position}")
        ]
    return [] if before == now else [(key, before, now)]


def _revision() -> str:
    """The git revision of the source tree, or `unknown` in an installed package or image without one."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
