"""`graph/manifest.json`, which prepare publishes last, and the schema that later stages read from it."""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from twhin_core import storage
from twhin_core.checksum import crc32c
from twhin_core.config import Config, Relation
from twhin_core.config.derive import Derive
from twhin_core.errors import UserError, one_line
from twhin_core.graph.content_entry import ContentEntry
from twhin_core.graph.raw_file_entry import RawFileEntry
from twhin_core.parquet import FileEntry
from twhin_core.schema import Schema

MANIFEST = "graph/manifest.json"
SPLITS = ("train", "validation", "test")
NEGATIVES = "negatives/"
"""Before the name of the split that an explicit negative is in."""

M = TypeVar("M", bound=BaseModel)


class DegreeEntry(BaseModel):
    """The distribution of training degrees.

    `quantiles`: for each q, the smallest degree that at least a share q of the nodes does not exceed; `top_share`: the
    share of all edge ends that belongs to the 1 % of nodes with the most; `shares`: those of that 1 %, of the 9 % and
    the 40 % that follow, and of the other half.
    """

    nodes: int
    mean: float
    quantiles: dict[str, int]
    top_share: float
    shares: list[float] = []


class TableEntry(BaseModel):
    """The vocabulary of a table; its nodes have the indices 0 … num_embeddings - 1. `labels`: those of some nodes.

    `forgotten`: how many of the indices have no node any more. `added`: how many indices each version added, where
    there are several: the nodes of each are in the order of their hashes. `lost`: the nodes with training edges in the
    version before but not in this one. `id_kinds`: the types of the ids in Parquet files, of all versions.
    """

    name: str
    num_embeddings: int
    degrees: DegreeEntry
    files: list[FileEntry]
    labels: list[FileEntry] = []
    content: ContentEntry | None = None
    forgotten: int = 0
    added: list[int] = []
    lost: int = 0
    id_kinds: list[str] = []

    @property
    def nodes(self) -> int:
        return self.num_embeddings - self.forgotten

    @property
    def sorted_runs(self) -> list[int]:
        """How many indices each run of nodes has that are in the order of their hashes, one run after another."""
        return self.added or [self.num_embeddings]


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

    `weights` is None if edges have no weights, or the relation has no training edges. `derived`: how its edges were
    made, if they were.
    """

    edges: dict[str, int]
    degrees: dict[str, DegreeEntry]
    reversed: dict[str, int] = Field(default_factory=dict)
    weights: WeightEntry | None = None
    derived: Derive | None = None


class SplitEntry(BaseModel):
    """The edges of a split; `cold_edges` counts those with a node without training edges."""

    edges: int
    cold_edges: int
    files: list[FileEntry]


class PreviousEntry(BaseModel):
    """The version that this one continues, by its run root. `manifest`: the CRC-32C of the manifest of its graph;
    `raw_files`: taken until then.
    """

    root: str
    manifest: str
    raw_files: list[RawFileEntry]


class RejectedEntry(BaseModel):
    """The source rows that did not become edges, and the `edges_before` of the previous graph that left."""

    rows: int
    edges_before: int = 0
    by_reason: dict[str, int]
    files: list[FileEntry]


class Manifest(BaseModel):
    """`graph/manifest.json` of a run that built its graph. Paths of files are relative to `holder`.

    `rules`: how rows became edges, which the next version must keep to (see `rules.rules_of`). `newest`: the newest
    time of a row, in the unit of `times`. Both are missing in the manifests of versions up to 0.1. `forgotten`: the
    records of forgotten nodes that it was made with. `negatives`: explicit ones by split, which `splits` do not have.
    """

    version: str
    weighted: bool
    tables: list[TableEntry]
    relations: list[RelationEntry]
    splits: dict[str, SplitEntry]
    negatives: dict[str, SplitEntry] = {}
    rejected: RejectedEntry
    raw_files: list[RawFileEntry] = []
    raw_rows: int = 0
    rules: dict[str, Any] | None = None
    times: Literal["integer", "timestamp"] | None = None
    newest: int | None = None
    previous: PreviousEntry | None = None
    forgotten: list[str] = []
    shared_by: str | None = Field(None, exclude=True)
    """The run root that holds the graph, if it is another run's."""

    def holder(self, root: str) -> str:
        """The run root that holds the files of the graph that the run at `root` uses."""
        return self.shared_by or root

    @property
    def all_splits(self) -> dict[str, SplitEntry]:
        """The splits of edges, then those of explicit negatives, whose names begin with `NEGATIVES`."""
        return self.splits | {NEGATIVES + split: entry for split, entry in self.negatives.items()}

    @property
    def taken(self) -> dict[str, RawFileEntry]:
        """By path, the raw files that this version and those before it have read."""
        before = [] if self.previous is None else self.previous.raw_files
        return {entry.path: entry for entry in [*before, *self.raw_files]}


class SharedGraph(BaseModel):
    """`graph/manifest.json` of a run that uses another's graph."""

    shared_by: str
    """That run's root: an absolute path or URL."""
    manifest: str
    """The CRC-32C of its manifest, which holds the checksums of everything else."""


def read_manifest(root: str) -> Manifest | None:
    """The manifest of the run's graph, its own or another run's, or None if prepare has not finished.

    Raises:
        UserError: the other run's graph has been removed or replaced since.
    """
    url = storage.join(root, MANIFEST)
    try:
        found = _parse(storage.read_bytes(url), url)
    except FileNotFoundError:
        return None
    return _follow(found, root) if isinstance(found, SharedGraph) else found


def shared_graph(root: str) -> str | None:
    """The root of the other run whose graph the run at `root` uses, whether or not it is still there; None for none."""
    url = storage.join(root, MANIFEST)
    try:
        found = _parse(storage.read_bytes(url), url)
    except FileNotFoundError:
        return None
    return found.shared_by if isinstance(found, SharedGraph) else None


def _follow(shared: SharedGraph, root: str) -> Manifest:
    url = storage.join(shared.shared_by, MANIFEST)
    try:
        content = storage.read_bytes(url)
    except FileNotFoundError:
        raise UserError(f"{root}: uses the graph of {shared.shared_by}, which has been removed ({url})") from None
    if crc32c([content]) != shared.manifest:
        raise UserError(
            f"{root}: uses the graph of {shared.shared_by}, which has been prepared anew since; use another --run-root"
        )
    found = _parse(content, url)
    assert isinstance(found, Manifest), "a shared graph is always that of the run that built it"
    return found.model_copy(update={"shared_by": shared.shared_by})


def share(of: str, root: str) -> None:
    """Makes the finished graph of the run at `of` that of the run at `root`, which completes it.

    If `of` uses another run's graph itself, then `root` uses that one.
    """
    holder = find_manifest(of).holder(of)
    if not storage.is_remote(holder):
        holder = storage.filesystem(holder)[1]  # found from any working folder
    content = storage.read_bytes(storage.join(holder, MANIFEST))
    shared = SharedGraph(shared_by=holder, manifest=crc32c([content]))
    storage.publish_json(storage.join(root, MANIFEST), shared.model_dump())


@functools.lru_cache(maxsize=4)
def _parse(content: bytes, url: str) -> Manifest | SharedGraph:
    """Kept, because a stage asks for the manifest once for every table."""
    tree = storage.parse_json(content, url)
    if isinstance(tree, dict) and "shared_by" in tree:
        return _as(SharedGraph, tree, url)
    return _as(Manifest, tree, url)


def find_manifest(root: str) -> Manifest:
    """Like `read_manifest`, but raises UserError if prepare has not finished."""
    manifest = read_manifest(root)
    if manifest is None:
        raise UserError(f"{root}: there is no finished graph here ({MANIFEST}); run `twhin prepare` first")
    return manifest


def read_as(model: type[M], url: str) -> M | None:
    """The manifest at `url`, or None if there is none. Raises UserError if it is damaged or does not fit `model`."""
    try:
        return _as(model, storage.read_json(url), url)
    except FileNotFoundError:
        return None


def _as(model: type[M], tree: object, url: str) -> M:
    try:
        return model.model_validate(tree)
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
    content = {entry.name: entry.content.shape for entry in manifest.tables if entry.content is not None}
    return Schema(tables, relations_of(config, manifest), content)


def previous_root(root: str) -> str:
    """The run root that `previous` stands for in the config of a run: the version whose graph it has continued."""
    previous = find_manifest(root).previous
    assert previous is not None, "or the config would be refused"
    return previous.root


def relations_of(config: Config, manifest: Manifest) -> list[Relation]:
    """The graph's relations in the order of their ids, with the operators and weights of the config."""
    given = {relation.name: relation for relation in config.model.relations}
    names = [entry.name for entry in manifest.relations]
    return [given.get(name) or given["*"].model_copy(update={"name": name}) for name in names]
