"""Ties a run root to the config that it was made with."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from twhin_core import __version__, activity, lease, storage
from twhin_core.checksum import crc32c
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import StorageError, UserError, damaged, one_line
from twhin_core.progress import log_of

P = ParamSpec("P")
R = TypeVar("R")
Stage = Callable[Concatenate[Config, str, P], R]

CONFIG = "config.yaml"
CURRENT, VERSIONS = "current.json", "versions"
"""What a series has in place of a config: see `published`."""
SWEEP, TRIALS = "sweep.yaml", "trials"
"""What a sweep of `twhin tune` has in place of a config, and where the trials of any sweep are."""
HEADER = re.compile(r"twhin (?P<version>\S+), revision (?P<revision>\S+)$")
"""In the first line of `config.yaml`."""
SEAL = "# crc32c "
"""The start of the second line of `config.yaml`: the checksum of the lines after it."""

# Settings that may change between calls: how the result is evaluated and exported, what training logs and keeps, where
# it is tracked and logged, and which engine builds the graph.
CHANGEABLE = (
    "test_data", "evaluation", "export", "recommend", "tracking", "registry", "report", "sweep", "runtime.log_format",
    "training.save_dir", "training.train_log_every_n", "training.checkpoint_every_n", "training.checkpoint_max_to_keep",
    "training.keep_checkpoints_after_success", "training.eval_timeout_in_s", "training.readers_timeout_in_s",
    "prepare.engine", "prepare.spark_master", "prepare.memory_limit", "prepare.temp_directory", "prepare.changed_files",
)  # fmt: skip
EXTENDABLE = ("training.num_epochs", "training.num_train_steps")
"""Settings that may be raised, unless a learning rate falls until the last step."""

OF_A_CALL = "evaluation.split"
"""A call's choice of results, which are kept per split: alone, it does not change the saved config."""
# Without a checkpoint, only what the graph was made from must stay; `num_embeddings` is compared with the vocabulary.
MADE_THE_GRAPH = re.compile(
    r"prepare|model\.relations(?!\.\d+\.(operator|weight|negatives\.(per_positive|share))$)"
    r"|model\.embeddings\.tables(\.\d+(\.name)?)?$"
)


def stage(name: str) -> Callable[[Stage[P, R]], Stage[P, R]]:
    """Decorates a function of (config, root, …) as the stage `name` of a run: it then runs within `working`."""

    def decorate(function: Stage[P, R]) -> Stage[P, R]:
        @functools.wraps(function)
        def staged(config: Config, root: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
            with working(config, root, name):
                return function(config, root, *args, **kwargs)

        return staged

    return decorate


@contextlib.contextmanager
def working(config: Config, root: str, name: str) -> Iterator[None]:
    """Holds the lease of the stage `name`, and ties the root to `config`, while the block runs.

    Raises:
        StorageRefused: the root cannot be written.
        UserError: another process runs this stage of the root, a file of the root is removed while the block reads it,
            the root is a series or a sweep, or as `open_run`.
    """
    if is_series(root):
        raise UserError(f"{root}: is a series, not a run root; name a version, such as {root}/{VERSIONS}/1")
    check_is_no_sweep(root)
    log_of(run=root, stage=name)
    with lease.hold(root, name), activity.noted(root, name), unremoved(root):
        open_run(config, root, name)
        yield


@contextlib.contextmanager
def unremoved(root: str) -> Iterator[None]:
    """Raises UserError in place of a FileNotFoundError from the block, if it is about a file under `root`."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        if storage.filesystem(root)[1] not in str(error):
            raise
        raise UserError(f"{root}: a file was removed while this run was reading it: {one_line(error)}") from error


def open_run(config: Config, root: str, name: str = "") -> None:
    """Writes the resolved config to `<root>/config.yaml`, or checks that the root was made with it.

    Settings in `CHANGEABLE` may differ, and those in `EXTENDABLE` may be raised. So may those that only training
    depends on, if there is no checkpoint yet, and all, if there is no graph either, as long as no stage other than
    `name` is running. The file then gets the new config, unless nothing but `OF_A_CALL` differs.

    Raises:
        UserError: the root was made with another config, or another stage is running with one. Names the first key
            that differs.
    """
    url = storage.join(root, CONFIG)
    header = f"# The resolved config of this run. twhin {__version__}, revision {revision()}\n"
    body = config_file.to_yaml(config)
    content = f"{header}{SEAL}{crc32c([body.encode()])}\n{body}"
    with contextlib.nullcontext() if storage.is_remote(root) else lease.hold(root, "config"):
        while True:
            text, generation = storage.read_generation(url)
            if text:
                before = _parse(text, url)
                if {key for key, _, _ in differences(before.model_dump(), config.model_dump())} <= {OF_A_CALL}:
                    return
                _check_differences(before, config, root, name)
            if storage.write_if(url, content, generation) is not None:
                return  # else another process was faster, maybe one of the same run: check again


def is_series(path: str) -> bool:
    """Whether `path` is a series rather than a run root."""
    return not storage.exists(storage.join(path, CONFIG)) and (
        storage.exists(storage.join(path, CURRENT)) or bool(storage.list_folders(storage.join(path, VERSIONS)))
    )


def is_sweep(path: str) -> bool:
    """Whether `path` is a sweep of `twhin tune`, which are local."""
    return not storage.is_remote(path) and storage.exists(storage.join(path, SWEEP))


def check_is_no_sweep(path: str) -> None:
    """Raises UserError for a sweep of `twhin tune`, which has runs but is none."""
    if is_sweep(path):
        raise UserError(f"{path}: is a sweep, not a run root; name a trial, such as {storage.join(path, TRIALS, '1')}")


def sweep_with(root: str) -> str | None:
    """The sweep that the run at `root` is a trial of, here or on a cluster; None if it is none."""
    path = root.rstrip("/") if storage.is_remote(root) else storage.filesystem(root)[1]
    *above, folder, _ = path.rsplit("/", 2)
    if folder != TRIALS:
        return None
    sweep = above[0] or "/"
    return sweep if is_sweep(sweep) or storage.exists(storage.join(sweep, CONFIG)) else None


def check_is_run(root: str) -> None:
    """Raises UserError if there is no run at `root`."""
    check_is_no_sweep(root)
    if not storage.exists(storage.join(root, CONFIG)):
        raise UserError(f"{root}: there is no run here ({CONFIG})")


def saved_config(root: str) -> Config:
    """The config that the run at `root` was made with, as its last stage saved it.

    Raises:
        UserError: there is no run, or its config has changed since it was saved.
    """
    check_is_run(root)
    url = storage.join(root, CONFIG)
    return _parse(storage.read_bytes(url).decode(errors="replace"), url)


def _parse(text: str, url: str) -> Config:
    lines = text.splitlines(keepends=True)
    is_sealed = len(lines) > 1 and lines[1].startswith(SEAL)
    if is_sealed and lines[1].removeprefix(SEAL).strip() != crc32c(["".join(lines[2:]).encode()]):
        raise damaged(url, "its content does not match its checksum; if you edited it, remove its second line")
    return config_file.parse(text, origin=url)


def made_by(root: str) -> tuple[str, str]:
    """The version and the git revision that saved the config of the run at `root`."""
    header = storage.read_bytes(storage.join(root, CONFIG)).decode(errors="replace").partition("\n")[0]
    found = HEADER.search(header)
    return (found["version"], found["revision"]) if found else ("unknown", "unknown")


def check_same_graph(config: Config, root: str) -> None:
    """Checks that the run at `root` made its graph from what `config` says. Raises UserError with the first difference.

    `prepare.graph` may differ: either may use the graph of the other, or of a third.
    """
    for key, old, new in _changes(saved_config(root), config):
        if key != "prepare.graph" and MADE_THE_GRAPH.match(key):
            raise UserError(f"the graph of {root} was made with another config: {key} was {old!r} and is {new!r}")


def _changes(before: Config, config: Config) -> list[tuple[str, Any, Any]]:
    """The differences in settings that are not `CHANGEABLE`."""
    free = tuple(f"{part}." for part in CHANGEABLE)
    return [of for of in differences(before.model_dump(), config.model_dump()) if not f"{of[0]}.".startswith(free)]


def check_goes_on(config: Config, root: str) -> None:
    """Raises UserError, naming the first key that differs, if the run at `root` cannot go on under `config`."""
    url = storage.join(root, CONFIG)
    if storage.exists(url):
        _refuse(_changes(saved_config(root), config), config, root)


def _check_differences(before: Config, config: Config, root: str, name: str) -> None:
    changed = _changes(before, config)
    if changed:
        _refuse(changed, config, root)
        lease.check_alone(root, name, "run")


def _refuse(changed: list[tuple[str, Any, Any]], config: Config, root: str) -> None:
    """Raises UserError for the first change that what the root holds does not allow."""
    has_graph = storage.exists(storage.join(root, "graph/manifest.json"))
    is_trained = bool(storage.list_folders(storage.join(root, "checkpoints")))
    for key, old, new in changed:
        if (is_trained and not _extends(key, old, new, config)) or (has_graph and MADE_THE_GRAPH.match(key)):
            raise UserError(
                f"{root}: this run root was made with another config: {key} was {old!r} and is {new!r}; "
                "use another --run-root"
            )


def _extends(key: str, old: Any, new: Any, config: Config) -> bool:
    """Whether a change of `key` only trains for longer: what was trained so far would have been the same."""
    is_longer = new is None or (old is not None and old < new)
    return key in EXTENDABLE and is_longer and not any(of.ends_with_training for of in config.model.optimizers)


def differences(old: Any, new: Any, missing: object = None, key: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted key, the old and the new value of each leaf that differs between two trees of dicts and lists.

    `missing` stands in for a value that only one tree has.
    """
    old, new = (dict(enumerate(tree)) if isinstance(tree, list) else tree for tree in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for name in {**old, **new}
            for difference in differences(
                old.get(name, missing), new.get(name, missing), missing, f"{key}.{name}".lstrip(".")
            )
        ]
    return [] if old == new else [(key, old, new)]


def revision() -> str:
    """The git revision of the source tree, or `unknown` in an installed package or image without one."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
