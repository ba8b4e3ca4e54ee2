"""Folders of a run that are removed while a stage works: it succeeds or ends in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.errors import TwhinError
from twhin_core.run import unremoved
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

FOLDERS = [
    ".", "graph", "graph/edges", "graph/edges/train", "graph/vocab", "graph/vocab/user", "checkpoints", "training",
    "evaluation", "embeddings", ".leases",
]  # fmt: skip
REDONE = {
    prepare: ["graph", "checkpoints", "training"],
    train: ["checkpoints", "training"],
    evaluate: ["evaluation"],
    export: ["embeddings"],
}  # fmt: skip
"""What each stage makes; without it, it has everything to do."""


def moments(stage: Callable[[Config, str], object], config: Config, root: Path, patch: pytest.MonkeyPatch) -> int:
    """How often the stage asks for a file system; each time is a moment to remove something."""
    return run_removing(stage, config, root, None, -1, patch)


def run_removing(
    stage: Callable[[Config, str], object],
    config: Config,
    root: Path,
    folder: str | None,
    moment: int,
    patch: pytest.MonkeyPatch,
) -> int:
    for made in REDONE[stage]:
        shutil.rmtree(root / made, ignore_errors=True)
    count, real = 0, storage.filesystem

    def removing(url: str) -> Any:
        nonlocal count
        count += 1
        if folder is not None and count == moment:
            shutil.rmtree(root / folder, ignore_errors=True)
        return real(url)

    with patch.context() as during:
        during.setattr(storage, "filesystem", removing)
        stage(config, str(root))
    return count


# TensorBoard's thread; outside of tests, `show_log` makes it one line.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stage", REDONE, ids=lambda stage: stage.__name__)
def test_a_stage_never_ends_in_a_traceback(
    stage: Callable[[Config, str], object],
    seed: int,
    trained: tuple[Config, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "LOOK", 1000)  # it would end this process
    (config, root), random = trained, Random(seed)
    count = moments(stage, config, Path(shutil.copytree(root, tmp_path / "whole")), monkeypatch)
    lines = []
    for number in range(4):
        copy = Path(shutil.copytree(root, tmp_path / f"copy{number}"))
        folder, moment = random.choice(FOLDERS), random.randint(1, count)
        try:
            run_removing(stage, config, copy, folder, moment, monkeypatch)
        except TwhinError as error:
            lines.append(str(error))
    assert all(line.count("\n") == 0 for line in lines)


@pytest.mark.parametrize("remote", [False, True])
def test_only_files_of_the_run_are_said_to_have_been_removed(remote: bool, tmp_path: Path) -> None:
    root = "gs://bucket/run" if remote else str(tmp_path)
    inside = FileNotFoundError(2, "No such file or directory", f"{root}/graph/edges/part")
    removed = pytest.raises(TwhinError, match=r"a file was removed while this run was reading it: .*graph/edges/part")
    with removed, unremoved(root):
        raise inside
    with pytest.raises(FileNotFoundError), unremoved(root):
        raise FileNotFoundError(2, "No such file or directory", "/elsewhere/part")
