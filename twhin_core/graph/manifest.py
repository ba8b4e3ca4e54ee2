"""`graph/manifest.json`, which prepare publishes last, and the schema that later stages read from it."""

from __future__ import annotations

import functools
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from twhin_core import storage
from twhin_core.config import Config, Relation
from twhin_core.errors import UserError, one_line
from twhin_core.parquet import FileEntry
from twhin_core.schema import Schema

MANIFEST = "graph/manifest.json"
SPLITS = ("train", "validation", "test")

M = TypeVar("M", bound=BaseModel)


class DegreeEntry(BaseModel):
    """The distribution of training degrees.

    `quantiles`: for each q, the smallest degree that at least a share q of the nodes does not exceed; `top_share`: the
    share of all edge ends that belongs to the 1 % of nodes with the most.
    """

    nodes: int
    mean: float
    quantiles: dict[str, int]
    top_share: float


class TableEntry(BaseModel):
    """The vocabulary of a table; its nodes have the indices 0 … num_embeddings - 1. `labels`: those of some nodes."""

    name: str
    num_embeddings: int
    degrees: DegreeEntry
    files: list[FileEntry]
    labels: list[FileEntry] = []


class WeightEntry(BaseModel):
    """The distribution of the weights of a relation's training edges.

    `top_share`: the share of their sum that belongs to the `top_edges` heaviest, 0.1 % of all.
    """

    mean: float
    max: float
    top_edges: int
    top_share: float


class RelationEntry(Relation):
    """A relation with its number of edges per split and its degrees per side. Entries are in the order of ids.

    `reversed`: for each held-out split, how many of its edges have their reverse in train; splits with none are left
    out, as are relations between two tables and symmetric ones.

    `weights` is None if edges have no weights, or the relation has no training edges.
    """

    edges: dict[str, int]
    degrees: dict[str, DegreeEntry]
    reversed: dict[str, int] = Field(default_factory=dict)
    weights: WeightEntry | None = None


class SplitEntry(BaseModel):
    """The edges of a split; `cold_edges` counts those with a node without training edges."""

    edges: int
    cold_edges: int
    files: list[FileEntry]


class RawFileEntry(BaseModel):
    """A raw file as prepare found it. `version`: as `paths.FoundFile.version`."""

    path: str
    size: int
    version: int


class RejectedEntry(BaseModel):
    """The source rows that did not become edges."""

    rows: int
    by_reason: dict[str, int]
    files: list[FileEntry]


class Manifest(BaseModel):
    """`graph/manifest.json`."""

    version: str
    weighted: bool
    tables: list[TableEntry]
    relations: list[RelationEntry]
    splits: dict[str, SplitEntry]
    rejected: RejectedEntry
    raw_files: list[RawFileEntry] = []


def read_manifest(root: str) -> Manifest | None:
    """The manifest under the run root, or None if prepare has not finished."""
    url = storage.join(root, MANIFEST)
    try:
        return _parse(storage.read_bytes(url), url)
    except FileNotFoundError:
        return None


@functools.lru_cache(maxsize=2)
def _parse(content: bytes, url: str) -> Manifest:
    """Kept, because a stage asks for the manifest once for every table."""
    return _as(Manifest, content, url)


def find_manifest(root: str) -> Manifest:
    """The manifest under the run root. Raises UserError if prepare has not finished."""
    manifest = read_manifest(root)
    if manifest is None:
        raise UserError(f"{root}: there is no finished graph here ({MANIFEST}); run `twhin prepare` first")
    return manifest


def read_as(model: type[M], url: str) -> M | None:
    """The manifest at `url`, or None if there is none. Raises UserError if it is damaged or does not fit `model`."""
    try:
        return _as(model, storage.read_bytes(url), url)
    except FileNotFoundError:
        return None


def _as(model: type[M], content: bytes, url: str) -> M:
    try:
        return model.model_validate(storage.parse_json(content, url))
    except ValidationError as error:
        raise UserError(f"{url}: not a manifest of this version: {one_line(error)}") from None


def read_schema(config: Config, root: str) -> Schema:
    """The schema of the run: from prepare's manifest if there is a prepare section, else from the config.

    Raises:
        UserError: prepare has not finished, or a table's `num_embeddings` is smaller than its vocabulary.
    """
    if config.prepare is None:
        sizes = {table.name: table.num_embeddings for table in config.model.embeddings.tables}
        return Schema({name: size for name, size in sizes.items() if size is not None}, config.model.relations)
    manifest = find_manifest(root)
    tables = {}
    for entry in manifest.tables:
        stated = config.model.table(entry.name).num_embeddings
        if stated is not None and stated < entry.num_embeddings:
            raise UserError(
                f"model.embeddings.tables: {entry.name} has num_embeddings {stated} but its vocabulary has "
                f"{entry.num_embeddings}"
            )
        tables[entry.name] = stated or entry.num_embeddings
    described = {"edges", "degrees", "reversed", "weights"}
    relations = [Relation.model_validate(entry.model_dump(exclude=described)) for entry in manifest.relations]
    return Schema(tables, relations)
