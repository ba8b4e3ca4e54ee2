"""Checkpoints: `<root>/checkpoints/<step>/`, by torch.distributed.checkpoint, whole only if the marker is there.

The marker, `complete.json`, is written last. It says what model the weights are of and how far training was, so that a
reader needs to unpickle nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import BaseModel
from torch import Tensor

from twhin_core import __version__, storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.manifest import Schema
from twhin_core.model.scorer import Scorer
from twhin_core.training.checkpoint_io import make_reader, make_writer, read_part

FOLDER = "checkpoints"
MARKER = "complete.json"


class ModelDescription(BaseModel):
    """What must agree for weights to fit a model."""

    tables: dict[str, int]
    dim: int
    relations: list[str]
    operators: list[str]
    comparator: str
    reciprocal: bool
    optimizers: dict[str, str]


def describe(config: Config, schema: Schema) -> ModelDescription:
    model = config.model
    optimizers = {table.name: table.optimizer.name for table in model.embeddings.tables}
    return ModelDescription(
        tables=schema.tables,
        dim=model.dim,
        relations=[relation.name for relation in schema.relations],
        operators=[relation.operator for relation in schema.relations],
        comparator=model.comparator,
        reciprocal=model.reciprocal,
        optimizers={**optimizers, "relations": model.translation_optimizer.name},
    )


class Position(BaseModel):
    """How far training is: steps done, and within the running epoch the edges all ranks have taken."""

    step: int = 0
    epoch: int = 0
    edges: int = 0


class Marker(BaseModel):
    """`complete.json`."""

    version: str
    position: Position
    model: ModelDescription


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    url: str
    marker: Marker

    @property
    def step(self) -> int:
        return self.marker.position.step

    def read_rows(self, table: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a table: float32 [stop - start, dim]; needs no process group."""
        shape = (stop - start, self.marker.model.dim)
        return read_part(self.url, f"tables.embeddings.{table}.weight", (start, 0), shape)

    def load_scorer(self, scorer: Scorer) -> None:
        """Puts the relations' parameters into `scorer`."""
        for name, parameter in scorer.named_parameters():
            part = read_part(self.url, f"scorer.{name}", (0,) * parameter.dim(), tuple(parameter.shape))
            parameter.data.copy_(part)

    def check_fits(self, model: ModelDescription) -> None:
        """Raises UserError if this is a checkpoint of another model; names each difference."""
        mine, other = model.model_dump(), self.marker.model.model_dump()
        differences = [f"{key} {other[key]!r} there, {mine[key]!r} here" for key in mine if mine[key] != other[key]]
        if differences:
            shortened = "; ".join(text if len(text) < 300 else f"{text[:300]}…" for text in differences)
            raise UserError(f"{self.url}: this checkpoint is of another model: {shortened}")


def complete(root: str) -> list[Checkpoint]:
    """The complete checkpoints under the run root, oldest first."""
    folder = storage.join(root, FOLDER)
    steps = sorted(int(name) for name in storage.list_folders(folder) if name.isdigit())
    urls = [storage.join(folder, str(step)) for step in steps]
    return [Checkpoint(url, _read_marker(url)) for url in urls if storage.exists(storage.join(url, MARKER))]


def newest(root: str) -> Checkpoint | None:
    """The newest complete checkpoint under the run root."""
    found = complete(root)
    return found[-1] if found else None


def save(
    root: str, state: Mapping[str, Any], position: Position, model: ModelDescription, keep: int | None
) -> Checkpoint:
    """Writes a checkpoint of `state`, every rank its part, and then removes all but the newest `keep`."""
    url = storage.join(root, FOLDER, str(position.step))
    if dist.get_rank() == 0:
        storage.remove(url)  # what a killed run may have left half-written
    dist.barrier()
    dcp.save(dict(state), storage_writer=make_writer(url))
    checkpoint = Checkpoint(url, Marker(version=__version__, position=position, model=model))
    if dist.get_rank() == 0:
        storage.write_text(storage.join(url, MARKER), checkpoint.marker.model_dump_json(indent=1) + "\n")
        for old in complete(root)[: -keep if keep else 0]:
            storage.remove(storage.join(old.url, MARKER))  # first, so that it is never taken for whole while it goes
            storage.remove(old.url)
    dist.barrier()
    return checkpoint


def load(checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
    """Reads a checkpoint into the tensors of `state`, in place, whatever the number of ranks that wrote it."""
    dcp.load(dict(state), storage_reader=make_reader(checkpoint.url))


def _read_marker(url: str) -> Marker:
    return Marker.model_validate(storage.read_json(storage.join(url, MARKER)))
