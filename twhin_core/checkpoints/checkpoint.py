"""Checkpoints: `<root>/checkpoints/<step>/`, written by torch.distributed.checkpoint, with a marker once complete.

The marker, `complete.json`, is written last. It describes the model and the training position, so reading these does
not require unpickling.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from twhin_core import storage
from twhin_core.checkpoints.blocks import MARKER, or_gone
from twhin_core.checkpoints.description import NOT_OF_WEIGHTS, ModelDescription
from twhin_core.checkpoints.index import INDEX, StoredShape, read_index
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.config import Model, Relation
from twhin_core.data.frequencies import Frequencies
from twhin_core.errors import TwhinError, UserError, damaged
from twhin_core.graph.manifest import read_as
from twhin_core.model.scorer import Scorer
from twhin_core.model.tower import Tower
from twhin_core.run import differences
from twhin_core.schema import ContentShape, Schema
from twhin_core.vectors.content import ComposedRows, Towers, content_of
from twhin_core.vectors.prior import Prior
from twhin_core.vectors.rows import Rows

FOLDER = "checkpoints"
FINISHED = "training/finished.json"
"""Written after the last checkpoint: the last step, and the reason why it was the last."""

ALL_DONE = "all steps are done"
"""The reason if training did not stop early."""

MAX_DIFFERENCES = 10
"""The number of differences named if a checkpoint does not fit."""

OPTIMIZER = "optimizer."
"""The prefix of optimizer state; all other tensors are weights."""

PRIOR = "scorer.prior"
"""The learned weights of the prior."""

WEIGHTS = "relation_weights"
"""The weights of relations that were found, with `model.target`."""

KEYS, COUNTS = "degrees.key", "degrees.count"
"""The training degrees that `model.prior` is computed from, as `Frequencies`."""


class Position(BaseModel):
    """The progress of training: completed steps and epochs, and the edges taken by all ranks in the current epoch."""

    step: int = 0
    epoch: int = 0
    edges: int = 0

    def edges_since(self, before: Position) -> int:
        """The edges of the one step between `before` and here."""
        return self.edges - (before.edges if before.epoch == self.epoch else 0)


class Marker(BaseModel):
    """`complete.json`."""

    version: str
    position: Position
    model: ModelDescription
    files: dict[str, str] = {}
    """The digest of each file's checksums (see `blocks`); none in version 0.1, whose files are read without a check."""


class NoCheckpoint(UserError):
    """A run root without a complete checkpoint."""

    def __init__(self, root: str) -> None:
        super().__init__(f"{root}: there is no complete checkpoint; run `twhin train` first")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    url: str
    marker: Marker

    @property
    def step(self) -> int:
        return self.marker.position.step

    @property
    def digest(self) -> str:
        """Tells it apart from any other checkpoint, also one of the same step."""
        left_out = {} if self.marker.model.content else {"model": {"content"}}  # as before there was any
        return hashlib.sha256(self.marker.model_dump_json(exclude=left_out).encode()).hexdigest()[:16]

    @cached_property
    def _index(self) -> dict[str, StoredShape]:
        """Read once: it is as long as there are tables."""
        return or_gone(self.url, lambda: read_index(self.url, self.marker.files))

    def rows(self, table: str) -> Rows:
        """The vectors of a table, float32 [rows, dim], to read block by block: with the content of nodes, if any."""
        return self._composed(table)

    def filled_rows(self, table: str) -> Rows:
        """As `rows`, less what content adds to them."""
        return self._composed(table, whole=False)

    def towers(self, table: str) -> Towers | None:
        """What was learned of a table's content, if it has any."""
        if (shape := self.marker.model.content.get(table)) is None:
            return None
        tower, predictor = (Tower(ContentShape(*shape), self.marker.model.dim) for _ in range(2))
        for of, part in ((tower, f"towers.{table}"), (predictor, f"predictors.{table}.tower")):
            of.load_state_dict({name: self.stored(f"{part}.{name}").read_whole() for name in of.state_dict()})
        log_scale, slope = (self.stored(f"predictors.{table}.{name}").read_whole() for name in ("log_scale", "slope"))
        is_unit = self.marker.model.optimizers[table] == "spherical_adagrad"
        return Towers(tower, predictor, float(log_scale.exp()), float(slope), is_unit)

    def _composed(self, table: str, whole: bool = True) -> Rows:
        ids, towers = self.id_rows(table), self.towers(table)
        if towers is None:
            return ids
        content = content_of(self.url.rsplit("/", 2)[0], table, ids.size)
        return ComposedRows(ids, content, towers, whole)

    def id_rows(self, table: str) -> StoredTensor:
        """What was learned of each node by its id alone, float32 [rows, dim], to read block by block."""
        return self.stored(f"tables.embeddings.{table}.weight")

    def stored(self, name: str) -> StoredTensor:
        """A tensor of the checkpoint, to read block by block."""
        return StoredTensor(self.url, name, self.marker.files, self._index)

    def scorer(self, model: Model, relations: list[Relation]) -> Scorer:
        """The scorer with the learned parameters of the relations."""
        scorer = Scorer(model, relations)
        for name, parameter in scorer.named_parameters():
            parameter.data.copy_(self.stored(f"scorer.{name}").read_whole())
        return scorer

    def prior(self, scorer: Scorer, relations: list[Relation]) -> Prior | None:
        """What the scores of this checkpoint's `scorer` still lack; None without `model.prior`."""
        if scorer.prior is None:
            return None
        tables = self.marker.model.tables
        key, count = (self.stored(name).read_whole().numpy() for name in (KEYS, COUNTS))
        return Prior(scorer, Schema(tables, relations), Frequencies(key, count, max(tables.values())))

    def check_fits(self, model: ModelDescription, weights_only: bool = False) -> None:
        """Raises UserError, naming the differences, if this is a checkpoint of another model."""
        left_out = NOT_OF_WEIGHTS if weights_only else set()
        refuse_differences(self.url, *(of.model_dump(exclude=left_out) for of in (self.marker.model, model)))


def refuse_differences(url: str, there: Any, here: Any) -> None:
    """Raises UserError, naming the differences, unless the model of the checkpoint at `url` equals that here."""
    found = differences(there, here, missing="missing")
    if found:
        named = [f"{key} {theirs!r} there, {ours!r} here" for key, theirs, ours in found[:MAX_DIFFERENCES]]
        if more := len(found) - len(named):
            named.append(f"and {more} more")
        raise UserError(f"{url}: this checkpoint is of another model: {'; '.join(named)}")


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


def last(root: str) -> Checkpoint | None:
    """The newest complete checkpoint under the run root.

    Raises:
        Damaged: training has finished, and its last checkpoint is there but for its marker.
    """
    found, finished = newest(root), storage.find_json(storage.join(root, FINISHED))
    if finished is not None and (found is None or found.step < finished["step"]):
        place = storage.join(root, FOLDER, str(finished["step"]))
        if storage.exists(storage.join(place, INDEX)):
            raise damaged(storage.join(place, MARKER), f"is missing, although {FINISHED} names this checkpoint")
    return found


def at_step(root: str, step: int) -> Checkpoint | None:
    """The complete checkpoint of a step, or None if there is none."""
    return _read(storage.join(root, FOLDER, str(step)))


def remove_incomplete(root: str) -> None:
    """Removes partially written and partially removed checkpoints. No writer may be running."""
    folder = storage.join(root, FOLDER)
    kept = {str(checkpoint.step) for checkpoint in complete(root)}
    for name in storage.list_folders(folder):
        if name.isdigit() and name not in kept:
            storage.remove(storage.join(folder, name))


def remove(checkpoint: Checkpoint) -> None:
    storage.remove(storage.join(checkpoint.url, MARKER))  # first, so that a partially removed checkpoint is incomplete
    storage.remove(checkpoint.url)


def load(checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
    """Loads a checkpoint, written by any number of ranks, into the tensors of `state`, in place.

    Raises:
        UserError: the checkpoint is damaged, or its index contains a name that does not belong in one.
    """
    # Takes a second to import, and reading rows does not need it.
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    from twhin_core.checkpoints.io import make_reader
    from twhin_core.checkpoints.large import fill, is_large

    large = {name: value for name, value in state.items() if is_large(value)}
    try:
        reader = or_gone(checkpoint.url, lambda: make_reader(checkpoint.url, checkpoint.marker.files))
        dcp.load({name: value for name, value in state.items() if name not in large}, storage_reader=reader)
    except CheckpointException as failure:
        for error, _ in failure.failures.values():
            if isinstance(error, TwhinError):
                raise error from None
        raise
    for name, value in large.items():
        fill(value, checkpoint.stored(name))


def load_initial(url: str, state: Mapping[str, Any], model: ModelDescription) -> Checkpoint:
    """Loads only the weights of the checkpoint at `url`.

    Args:
        url: a checkpoint, a folder of checkpoints or a run root; of several, the newest is loaded.

    Raises:
        UserError: there is none, or its tables, dim or relations differ.
    """
    inside = _read(url), _newest_in(url), newest(url)
    found = next((checkpoint for checkpoint in inside if checkpoint is not None), None)
    if found is None:
        raise UserError(f"training.initial_checkpoint_dir: there is no complete checkpoint at {url}")
    found.check_fits(model, weights_only=True)
    # Degrees and relations' weights are those of this run's edges; weights of the prior that were never learned stay.
    has_weights = "learned" in (found.marker.model.prior or [])
    left_out = {KEYS, COUNTS, WEIGHTS} if has_weights else {KEYS, COUNTS, WEIGHTS, PRIOR}
    weights = (name for name in state if not name.startswith(OPTIMIZER) and name not in left_out)
    load(found, {name: state[name] for name in weights})
    return found


def root_of_checkpoint(url: str) -> str:
    """The run root that the URL of a checkpoint, of a folder of them, or of a run root belongs to."""
    return re.sub(rf"/{FOLDER}(/\d+)?$", "", url.rstrip("/"))


def _newest_in(folder: str) -> Checkpoint | None:
    found = _complete_in(folder)
    return found[-1] if found else None


def _read(url: str) -> Checkpoint | None:
    """The checkpoint at `url`, or None if it is incomplete or was just removed."""
    marker = read_as(Marker, storage.join(url, MARKER))
    return None if marker is None else Checkpoint(url, marker)
