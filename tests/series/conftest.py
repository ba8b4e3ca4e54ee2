"""A series with three exported versions, each with vectors of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from twhin_core.config import Config
from twhin_core.run import saved_config
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export


@pytest.fixture(scope="session")
def exported_once() -> list[str]:
    """What `series` copies from."""
    return []


@pytest.fixture
def series(
    trained: tuple[Config, str], exported_once: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Versions 1, 2 and 10, exported and not published; each test has a copy of its own."""
    if not exported_once:
        config, root = trained
        evaluate(config, root)
        export(config, root)
        exported_once.append(str(shutil.copytree(root, tmp_path_factory.mktemp("exported") / "run")))
    for version in ("1", "2", "10"):
        shutil.copytree(exported_once[0], tmp_path / "series" / "versions" / version)
    return str(tmp_path / "series")


def raw_of(root: str) -> list[dict[str, Any]]:
    """`prepare.sources` of a run."""
    settings = saved_config(root).prepare
    assert settings is not None
    return [source.model_dump(mode="json", exclude_unset=True) for source in settings.sources]
