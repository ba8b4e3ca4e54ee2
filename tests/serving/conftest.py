"""One exported run for all tests of the server, with a flat index, which is exact."""

from __future__ import annotations

import pytest

from tests.conftest import small_configs
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


@pytest.fixture(scope="session")
def exported_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run root that tests only read."""
    folder = tmp_path_factory.mktemp("served")
    config, root = small_configs(folder)(export={"formats": ["parquet", "faiss"]}), str(folder / "run")
    for stage in (prepare, train, evaluate, export):
        stage(config, root)
    return root
