"""The splits of a run's graph: where their edges are, as a data set or whole in memory."""

from __future__ import annotations

from twhin_core import storage
from twhin_core.config import Config, EdgeData
from twhin_core.data.edges import Edges
from twhin_core.data.files import EdgeFiles
from twhin_core.errors import UserError
from twhin_core.graph.manifest import read_manifest
from twhin_core.schema import Schema


def open_split(config: Config, root: str, schema: Schema, split: str) -> EdgeFiles:
    """The edges of `train`, `validation` or `test`: of the config's data root, or of prepare's split under `root`.

    Raises:
        UserError: no file, a broken file or one without the columns, an edge that cannot be, no edges, or others than
            prepare wrote.
    """
    data: EdgeData | None = getattr(config, f"{split}_data")
    place = data.data_root if data is not None and data.data_root is not None else None
    if place is None and config.prepare is None:
        raise UserError(f"{split}_data.data_root: is needed to read {split} edges that prepare did not make")
    prepared = storage.join(root, "graph/edges", split)
    place = place or prepared
    offset, limit = (0, None) if data is None else (data.offset, data.limit)
    files = EdgeFiles(storage.glob(place), schema, offset, limit)
    manifest = read_manifest(root) if place == prepared and (offset, limit) == (0, None) else None
    if manifest is not None and len(files) != manifest.splits[split].edges:
        raise UserError(f"{place}: {len(files)} edges, but {manifest.splits[split].edges} in the manifest of the graph")
    if len(files) == 0:
        raise UserError(f"the {split} split has no edges ({place})")
    return files


def read_split(config: Config, root: str, schema: Schema, split: str) -> Edges:
    """As `open_split`, all edges at once, in memory. May raise the same."""
    return open_split(config, root, schema, split).all()


def has_split(config: Config, root: str, split: str) -> bool:
    """Whether there are edges of that split to read; one that prepare left empty is as good as none."""
    data: EdgeData | None = getattr(config, f"{split}_data")
    if data is not None and data.data_root is not None:
        return True
    manifest = read_manifest(root) if config.prepare is not None else None
    return manifest is not None and manifest.splits[split].edges > 0
