"""The earlier version's export that `export.align` names. Does not import torch: prepare looks at it too."""

from __future__ import annotations

from collections.abc import Collection

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.config.earlier import PREVIOUS
from twhin_core.errors import UserError
from twhin_core.export.manifest import FOLDER, read_export_manifest
from twhin_core.graph.manifest import previous_root
from twhin_core.parquet import StoredFile
from twhin_core.published import find_root
from twhin_core.vectors.ids import Ids, StoredIds

KEY = "export.align"


class EarlierExport:
    """The vectors that another run has exported."""

    def __init__(self, root: str, dim: int, tables: Collection[str]) -> None:
        """Reads the manifest alone. `dim` and `tables`: of this run.

        Raises:
            UserError: nothing was exported under `root`, or not as Parquet, or with another dimension, or none of the
                tables.
        """
        manifest = read_export_manifest(root)
        if manifest is None:
            raise UserError(f"{KEY}: {root} has no embeddings; run `twhin export` there first, or remove the key")
        if manifest.dim != dim:
            raise UserError(f"{KEY}: the vectors of {root} have {manifest.dim} dimensions, those of this run {dim}")
        if "parquet" not in manifest.formats:
            formats = ", ".join(manifest.formats)
            raise UserError(f"{KEY}: {root} was exported as {formats}; add parquet to its export.formats")
        self.tables = {entry.name: entry for entry in manifest.tables if entry.name in tables}
        if not self.tables:
            raise UserError(f"{KEY}: {root} has exported none of this run's tables ({', '.join(tables)})")
        self.root, self.manifest = root, manifest

    def files(self, table: str) -> list[StoredFile]:
        return [file.under(self.root) for file in self.tables[table].files]

    def ids(self, table: str) -> Ids:
        return StoredIds(self.files(table), storage.join(self.root, FOLDER, table), None)


def earlier_root(config: Config, root: str | None = None) -> str:
    """The run root that `export.align`, which is set, stands for.

    Args:
        root: the run, once it has a graph, which says what `previous` was.

    Raises:
        UserError: it names a series without a published version, or a version that was removed.
    """
    place = config.export.align
    assert place is not None
    if place == PREVIOUS and root is not None:
        return previous_root(root)
    named = config.earlier_place(place)
    assert named is not None, "or the config would be refused"
    return find_root(named, KEY)
