"""A run root and the config that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from twhin_core import __version__, config_file, storage
from twhin_core.config import Config
from twhin_core.errors import UserError

# How a result is measured and written, and what engine makes the graph, may change from one call to the next; what it
# was learned from may not.
REPEATABLE = (
    "test_data", "evaluation", "export", "training.eval_timeout_in_s",
    "prepare.memory_limit", "prepare.temp_directory",
)  # fmt: skip


def open_run(config: Config, root: str) -> None:
    """Claims `root` for `config`, or checks that it was made by it: `<root>/config.yaml` holds the resolved config.

    What only measures or writes a result may differ, and so may all while nothing is made yet; the file then
    holds the newest.

    Raises:
        UserError: the root was made by another config; names the first key that differs.
    """
    url = storage.join(root, "config.yaml")
    if storage.exists(url):
        made_by = config_file.parse(storage.read_text(url), origin=url)
        if made_by == config:
            return
        for key, before, now in _differences(made_by.model_dump(), config.model_dump()):
            if not f"{key}.".startswith(tuple(f"{part}." for part in REPEATABLE)) and _is_made(root):
                raise UserError(
                    f"{root}: this run root was made by another config: {key} was {before!r} and is {now!r}; "
                    "use another --run-root"
                )
    header = f"# The resolved config of this run. twhin {__version__}, revision {_revision()}\n"
    storage.write_text(url, header + config_file.to_yaml(config))


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
