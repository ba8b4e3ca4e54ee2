"""Exports of the tiny graph, as the tests of every format need them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.export.manifest import ExportManifest, read_export_manifest
from twhin_core.stages.export import export

ROWS = {"user": 40, "tweet": 30}


def changed(config: Config, section: str, **values: object) -> Config:
    """The config with other values in one section."""
    tree = config.model_dump()
    tree[section] = {**(tree[section] or {}), **values}
    return config_file.validate(Config, tree, "changed")


def export_as(trained: tuple[Config, str], *formats: str, **values: object) -> ExportManifest:
    config, root = trained
    return export(changed(config, "export", formats=list(formats), **values), root)


def weights(root: str, table: str) -> npt.NDArray[np.float32]:
    """The vectors of the newest checkpoint: [rows, dim]."""
    return newest(root).rows(table).read(0, ROWS[table]).numpy()


def vocabulary(root: str, table: str) -> list[str]:
    """The id of each row, from prepare's own files."""
    rows = pq.read_table(Path(root, "graph/vocab", table)).to_pylist()
    return [row["id"] for row in sorted(rows, key=lambda row: row["index"])]


def check_refused(config: Config, root: str, message: str) -> None:
    """Asserts that the export ends with one line, and that the one before stays."""
    made = read_export_manifest(root)
    assert made is not None
    with pytest.raises(UserError, match=message) as error:
        export(config, root)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert read_export_manifest(root) == made
    assert all(file.is_there(root) for file in made.files)
