"""The earlier versions' exports that `export.align` and `export.map` name.

Does not import torch: prepare looks at them too.
"""

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

ALIGN, MAP = "export.align", "export.map.to"


class EarlierExport:
    """The vectors that another run has exported."""

    def __init__(self, key: str, root: str, tables: Collection[str]) -> None:
        """Reads the manifest alone.

        Args:
            key: the config's key that names `root`, for errors.
            tables: those of this run.

        Raises:
            UserError: nothing was exported under `root`, or not as Parquet, or none of the tables.
        """
        manifest = read_export_manifest(root)
        if manifest is None:
            raise UserError(f"{key}: {root} has no embeddings; run `twhin export` there first, or remove the key")
        if "parquet" not in manifest.formats:
            formats = ", ".join(manifest.formats)
            raise UserError(f"{key}: {root} was exported as {formats}; add parquet to its export.formats")
        self.tables = {entry.name: entry for entry in manifest.tables if entry.name in tables}
        if not self.tables:
            raise UserError(f"{key}: {root} has exported none of this run's tables ({', '.join(tables)})")
        self.key, self.root, self.manifest = key, root, manifest

    def files(self, table: str) -> list[StoredFile]:
        return [file.under(self.root) for file in self.tables[table].files]

    def ids(self, table: str) -> Ids:
        return StoredIds(self.files(table), storage.join(self.root, FOLDER, table), None)


def open_aligned(config: Config, root: str, tables: Collection[str]) -> EarlierExport:
    """The export under `root` that vectors of this run are to be aligned with.

    Raises:
        UserError: as `EarlierExport`; or it has another dimension.
    """
    earlier = EarlierExport(ALIGN, root, tables)
    _check_dim(earlier, config.model.dim)
    return earlier


def open_mapped(config: Config, root: str, tables: Collection[str]) -> EarlierExport:
    """The export under `root` that vectors of this run are to be mapped to.

    Raises:
        UserError: as `EarlierExport`; or its vectors are compared otherwise than this run's, or only one of both is
            normalized; or it has another dimension and the map is orthogonal.
    """
    assert config.export.map is not None
    earlier = EarlierExport(MAP, root, config.export.tables or tables)
    there, here = earlier.manifest.comparator, config.model.comparator
    if there != here:
        raise UserError(f"{MAP}: the vectors of {root} are compared by {there}, those of this run by {here}")
    if earlier.manifest.normalized != config.export.normalize:
        verb, other = ("are", "are not") if earlier.manifest.normalized else ("are not", "are")
        raise UserError(
            f"{MAP}: the vectors of {root} {verb} normalized (export.normalize), and those of this run {other}"
        )
    if config.export.map.kind == "orthogonal":
        _check_dim(earlier, config.model.dim, "; set export.map.kind: linear")
    return earlier


def _check_dim(earlier: EarlierExport, dim: int, remedy: str = "") -> None:
    there = earlier.manifest.dim
    if there != dim:
        raise UserError(
            f"{earlier.key}: the vectors of {earlier.root} have {there} dimensions, those of this run {dim}{remedy}"
        )


def earlier_root(key: str, place: str, config: Config, root: str | None = None) -> str:
    """The run root that `place`, the value of `key`, stands for.

    Args:
        root: the run, once it has a graph, which says what `previous` was.

    Raises:
        UserError: it names a series without a published version, or a version that was removed.
    """
    if place == PREVIOUS and root is not None:
        return previous_root(root)
    named = config.earlier_place(place)
    assert named is not None, "or the config would be refused"
    return find_root(named, key)
