"""Opens the train, validation and test edges of a run."""

from __future__ import annotations

from collections.abc import Collection

from twhin_core import storage
from twhin_core.config import Config, EdgeData
from twhin_core.data.files import EdgeFiles
from twhin_core.errors import UserError
from twhin_core.graph.manifest import SPLITS, read_manifest
from twhin_core.paths import find_files
from twhin_core.schema import Schema


def open_split(config: Config, root: str, schema: Schema, split: str) -> EdgeFiles:
    """The `train`, `validation` or `test` edges, from the config's data root or from prepare's split under `root`.

    Raises:
        UserError: a file is missing, broken or lacks a column, an edge is invalid, there are no edges, or not as many
            as in prepare's manifest.
    """
    data: EdgeData | None = getattr(config, f"{split}_data")
    data_root = None if data is None else data.data_root
    if data_root is None and config.prepare is None:
        raise UserError(f"{split}_data.data_root: is required to read {split} edges without a prepare section")
    graph = read_manifest(root)
    holder = root if graph is None else graph.holder(root)
    prepared = storage.join(holder, "graph/edges", split)
    location = data_root or prepared
    offset, limit = (0, None) if data is None else (data.offset, data.limit)
    manifest = graph if location == prepared else None
    if manifest is None:
        urls = [file.url for file in find_files(location, is_pattern=location != prepared)]
        files = EdgeFiles(urls, schema, offset, limit)
    else:
        listed = [entry.under(holder) for entry in manifest.splits[split].files]
        footers = {file.url: file.footer for file in listed if file.footer is not None}
        files = EdgeFiles([file.url for file in listed], schema, offset, limit, footers)
    if manifest is not None and (offset, limit) == (0, None) and len(files) != manifest.splits[split].edges:
        raise UserError(
            f"{location}: {len(files)} edges, but {manifest.splits[split].edges} in the manifest of the graph"
        )
    if len(files) == 0:
        raise UserError(f"the {split} split has no edges ({location})")
    return files


def open_negatives(config: Config, root: str, schema: Schema, split: str) -> EdgeFiles | None:
    """The explicit negatives in a split of prepare's, as edges of the relation that holds them; None if it has none."""
    graph = read_manifest(root) if config.prepare is not None else None
    entry = None if graph is None else graph.negatives.get(split)
    if graph is None or entry is None or not entry.edges:
        return None
    listed = [file.under(graph.holder(root)) for file in entry.files]
    footers = {file.url: file.footer for file in listed if file.footer is not None}
    return EdgeFiles([file.url for file in listed], schema, footers=footers)


def open_known(config: Config, root: str, schema: Schema) -> list[EdgeFiles]:
    """All edges that the graph has of a node: those of every split, and its explicit negatives."""
    found = [open_negatives(config, root, schema, split) for split in SPLITS]
    return [*open_splits(config, root, schema, ["train"]).values(), *(files for files in found if files is not None)]


def open_splits(config: Config, root: str, schema: Schema, needed: Collection[str]) -> dict[str, EdgeFiles]:
    """All splits that have edges, by name. Raises UserError as `open_split`, also if one that is `needed` has none."""
    return {
        split: open_split(config, root, schema, split)
        for split in SPLITS
        if split in needed or has_split(config, root, split)
    }


def has_split(config: Config, root: str, split: str) -> bool:
    """Whether the split has edges. False for a split that prepare left empty."""
    data: EdgeData | None = getattr(config, f"{split}_data")
    if data is not None and data.data_root is not None:
        return True
    manifest = read_manifest(root) if config.prepare is not None else None
    return manifest is not None and manifest.splits[split].edges > 0
