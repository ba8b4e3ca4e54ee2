"""Checkpoints: `<root>/checkpoints/<step>/`, by torch.distributed.checkpoint, whole only if the marker is there.

The marker, `complete.json`, is written last. It says what model the weights are of and how far training was, so that a
reader needs to unpickle nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from twhin_core import storage
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.config import Config, Model, Relation
from twhin_core.errors import UserError
from twhin_core.model.scorer import Scorer
from twhin_core.schema import Schema

FOLDER = "checkpoints"
MARKER = "complete.json"
FINISHED = "training/finished.json"
"""Says that no checkpoint follows: the last step, and why it was the last."""

ALL_DONE = "all steps are done"
"""The reason where training was not stopped early."""


MOST_DIFFERENCES = 10
"""As many are named where a checkpoint does not fit."""

OPTIMIZER = "optimizer."
"""How the names of what optimizers keep begin; all other tensors of a state are weights."""


class ModelDescription(BaseModel):
    """What must agree for a checkpoint to fit a model."""

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


# What only training as a whole depends on: weights alone fit whatever these are.
NOT_OF_WEIGHTS = {"comparator", "optimizers"}


class Position(BaseModel):
    """How far training is: steps done, and within the running epoch the edges all ranks have taken."""

    step: int = 0
    epoch: int = 0
    edges: int = 0

    def edges_since(self, before: Position) -> int:
        """Edges of the one step between `before` and here."""
        return self.edges - (before.edges if before.epoch == self.epoch else 0)


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

    def rows(self, table: str) -> StoredTensor:
        """The vectors of a table, to be read block by block: float32 [rows, dim]."""
        return StoredTensor(self.url, f"tables.embeddings.{table}.weight")

    def scorer(self, model: Model, relations: list[Relation]) -> Scorer:
        """The scorer of such a model, with the parameters of these relations as they were learned."""
        scorer = Scorer(model, relations)
        for name, parameter in scorer.named_parameters():
            parameter.data.copy_(StoredTensor(self.url, f"scorer.{name}").read_whole())
        return scorer

    def check_fits(self, model: ModelDescription, weights_only: bool = False) -> None:
        """Raises UserError if this is a checkpoint of another model; names each difference."""
        left_out = NOT_OF_WEIGHTS if weights_only else set()
        there, here = (_flat(of.model_dump(exclude=left_out)) for of in (self.marker.model, model))
        differences = [
            f"{key} {there.get(key, 'missing')!r} there, {here.get(key, 'missing')!r} here"
            for key in {**here, **there}
            if there.get(key) != here.get(key)
        ]
        if differences:
            more = len(differences) - MOST_DIFFERENCES
            named = "; ".join(differences[:MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
            raise UserError(f"{self.url}: this checkpoint is of another model: {named}")


def _flat(tree: Any, key: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and lists, by their dotted paths."""
    if isinstance(tree, list):
        tree = {str(position): child for position, child in enumerate(tree)}
    if not isinstance(tree, dict):
        return {key: tree}
    leaves: dict[str, Any] = {}
    for name, child in tree.items():
        leaves.update(_flat(child, f"{key}.{name}" if key else name))
    return leaves


def complete(root: str) -> list[Checkpoint]:
    """The complete checkpoints under the run root, oldest first."""
    return _complete_in(storage.join(root, FOLDER))


def _complete_in(folder: str) -> list[Checkpoint]:
    steps = sorted(int(name) for name in storage.list_folders(folder) if name.isdigit())
    found = [_read(storage.join(folder, str(step))) for step in steps]
    return [checkpoint for checkpoint in found if checkpoint is not None]


def newest(root: str) -> Checkpoint | None:
    """The newest complete checkpoint under the run root."""
    return _newest_in(storage.join(root, FOLDER))


def at_step(root: str, step: int) -> Checkpoint | None:
    """The complete checkpoint of a step, or None where it is no longer kept."""
    return _read(storage.join(root, FOLDER, str(step)))


def remove_incomplete(root: str) -> None:
    """Removes what was left half-written or half-removed; nobody may be writing."""
    folder = storage.join(root, FOLDER)
    whole = {str(checkpoint.step) for checkpoint in complete(root)}
    for name in storage.list_folders(folder):
        if name.isdigit() and name not in whole:
            storage.remove(storage.join(folder, name))


def remove(checkpoint: Checkpoint) -> None:
    storage.remove(storage.join(checkpoint.url, MARKER))  # first, so that it is never taken for whole while it goes
    storage.remove(checkpoint.url)


def load(checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
    """Reads a checkpoint into the tensors of `state`, in place, whatever the number of ranks that wrote it."""
    # Only here: it takes a second to import, and those who read rows need none of it.
    import torch.distributed.checkpoint as dcp

    from twhin_core.checkpoints.io import make_reader

    dcp.load(dict(state), storage_reader=make_reader(checkpoint.url))


def load_initial(url: str, state: Mapping[str, Any], model: ModelDescription) -> Checkpoint:
    """Reads the weights alone of the checkpoint at `url`: its folder, the folder of several or a run root, whose
    newest is taken.

    Raises:
        UserError: there is none, or its tables, dim or relations are others.
    """
    inside = _read(url), _newest_in(url), newest(url)
    found = next((checkpoint for checkpoint in inside if checkpoint is not None), None)
    if found is None:
        raise UserError(f"training.initial_checkpoint_dir: there is no whole checkpoint at {url}")
    found.check_fits(model, weights_only=True)
    load(found, {name: value for name, value in state.items() if not name.startswith(OPTIMIZER)})
    return found


def _newest_in(folder: str) -> Checkpoint | None:
    found = _complete_in(folder)
    return found[-1] if found else None


def _read(url: str) -> Checkpoint | None:
    """The checkpoint at `url`, or None if it is not whole or was removed just now."""
    try:
        return Checkpoint(url, Marker.model_validate(storage.read_json(storage.join(url, MARKER))))
    except FileNotFoundError:
        return None
