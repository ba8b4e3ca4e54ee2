"""The vectors, ids and relations of a run, read from its export or from a checkpoint.

In both, a position counts the rows with an id in the order of their index, and means the same node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import NoCheckpoint, at_step, last
from twhin_core.checkpoints.description import model_description
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.export.alignment import read_rotation
from twhin_core.export.manifest import ExportManifest, PriorOf, read_export_manifest
from twhin_core.export.prior import COLUMN as PRIOR_COLUMN
from twhin_core.export.vector_set import TrainedRun
from twhin_core.graph.manifest import find_manifest, read_schema
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import StoredFile, open_parquet
from twhin_core.run import saved_config
from twhin_core.schema import Schema, Side
from twhin_core.vectors.ids import Ids, StoredIds
from twhin_core.vectors.parquet_rows import ParquetRows
from twhin_core.vectors.rows import Ints, Rows, WithColumn

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ExportedVectors:
    """A run's vectors as exported in Parquet files."""

    config: Config
    root: str
    schema: Schema
    manifest: ExportManifest

    @property
    def step(self) -> int:
        return self.manifest.checkpoint

    @property
    def tables(self) -> Sequence[str]:
        return [table.name for table in self.manifest.tables]

    def files(self, table: str) -> list[StoredFile]:
        """The Parquet files of a table. Raises UserError if it was not exported."""
        entry = next((entry for entry in self.manifest.tables if entry.name == table), None)
        if entry is None:
            raise UserError(
                f"{self.root}: table {table} was not exported (export.tables), and the checkpoint of step {self.step} "
                "no longer exists"
            )
        return [file.under(self.root) for file in entry.files]

    def ids(self, table: str) -> Ids:
        folder = storage.join(self.root, "embeddings", table)
        if self.config.prepare is None:
            return StoredIds(self.files(table), folder, None)
        entry = next(entry for entry in find_manifest(self.root).tables if entry.name == table)
        return StoredIds(self.files(table), folder, entry.sorted_runs, entry.forgotten > 0)

    def rows(self, table: str) -> Rows:
        return ParquetRows(self.files(table), self.manifest.dim)

    def candidates(self, side: Side, rel: int) -> Rows:
        """As `TrainedRun.candidates`. Raises UserError if their table was not exported."""
        table = self.schema.table_of(rel, side)
        rows = self.rows(table)
        if not self.config.model.has_prior(side):
            return rows
        number, priors = self._prior(side, rel)
        of_rows = ParquetRows(self.files(table), len(priors), PRIOR_COLUMN)
        return WithColumn(rows, lambda positions: of_rows.gather(positions)[:, number])

    def prior_weight(self, side: Side, rel: int) -> float | None:
        """As `ScoredVectors.prior_weight`."""
        number, priors = self._prior(side, rel)
        return priors[number].weight

    def _prior(self, side: Side, rel: int) -> tuple[int, list[PriorOf]]:
        """The place in the lists of the column `prior`, and all that these have."""
        table, name = self.schema.table_of(rel, side), self.schema.names[rel]
        (priors,) = (entry.priors for entry in self.manifest.tables if entry.name == table)
        return next(place for place, of in enumerate(priors) if of.is_of(name, side)), priors

    def prior_of_counts(self, side: Side, rel: int, counts: Ints) -> Tensor:
        """As `TrainedRun.prior_of_counts`. Raises UserError: the weights of the prior are not exported."""
        raise UserError(
            f"{self.root}: the weights of model.prior are in the checkpoint of step {self.step} alone, which no longer "
            "exists"
        )

    def scorer(self) -> Scorer:
        import torch

        if self.manifest.normalized:
            raise UserError(
                f"{self.root}: scores cannot be computed from normalized vectors (export.normalize), and the "
                f"checkpoint of step {self.step} no longer exists"
            )
        scorer = Scorer(self.config.model, self.schema.relations)  # its weights of the prior are in the column's values
        url, _, footer = self.manifest.relations.under(self.root)
        with open_parquet(url, footer=footer) as file:
            columns: dict[str, list[list[float]]] = file.read().to_pydict()
        for operators, column in ((scorer.operator, "embedding"), (scorer.inverse, "inverse")):
            if operators is not None:
                for rel in range(len(self.schema.relations)):
                    parameters = operators.of(rel).detach()  # a view
                    parameters.copy_(torch.tensor(columns[column][rel]))
        return scorer


Vectors = ExportedVectors | TrainedRun


@dataclass(frozen=True)
class Result:
    """A trained run."""

    config: Config
    root: str
    schema: Schema
    manifest: ExportManifest | None
    vectors: Vectors
    """The exported vectors or, before the first export, those of the newest checkpoint."""
    scored: Vectors
    """What scores are computed from: the checkpoint of the same step, rotated as the export is, which is faster to read
    and never normalized; or the exported vectors if it no longer exists."""


def open_result(root: str) -> Result:
    """Opens the run at `root`, reading only manifests.

    Raises:
        UserError: there is no run, nothing has been trained, or a manifest is broken.
    """
    config = saved_config(root)
    manifest = read_export_manifest(root)
    schema = read_schema(config, root)
    checkpoint = last(root) if manifest is None else at_step(root, manifest.checkpoint)
    exported = trained = None
    if manifest is not None and all(table.files for table in manifest.tables):
        exported = ExportedVectors(config, root, schema, manifest)
    if checkpoint is not None:
        checkpoint.check_fits(model_description(config, schema))
        aligned = None if manifest is None else manifest.aligned
        rotation = None if aligned is None else read_rotation(root, aligned)
        trained = TrainedRun(config, root, checkpoint, schema, rotation)
    vectors, scored = exported or trained, trained or exported
    if vectors is None or scored is None:
        if manifest is None:
            raise NoCheckpoint(root)
        raise UserError(
            f"{root}: was exported without parquet (as {', '.join(manifest.formats)}), and the checkpoint of step "
            f"{manifest.checkpoint} no longer exists"
        )
    return Result(config, root, schema, manifest, vectors, scored)
