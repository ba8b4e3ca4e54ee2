"""The train stage: read the edges, build the model, resume, then step until the epochs or the steps are done."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from twhin_core.config import Config
from twhin_core.data.edges import has_split, read_split
from twhin_core.graph.manifest import read_schema
from twhin_core.model.batch import Batch
from twhin_core.progress import Progress, log
from twhin_core.run import open_run
from twhin_core.training import checkpoint
from twhin_core.training.batches import Batches
from twhin_core.training.build import build
from twhin_core.training.checkpoint import Position
from twhin_core.training.metrics_log import MetricsLog, Window
from twhin_core.training.ranks import Ranks, process_group


def train(config: Config, root: str) -> None:
    """Trains the run at `root` to its end, from its newest complete checkpoint if there is one.

    Raises:
        UserError: a mistake in the config or the edges, a checkpoint of another model, or a loss that is not finite.
    """
    open_run(config, root)
    with process_group() as ranks:
        Trainer(config, root, ranks).run()


class Trainer:
    """One rank's part of a run."""

    def __init__(self, config: Config, root: str, ranks: Ranks) -> None:
        self.training, self.root, self.ranks = config.training, root, ranks
        schema = read_schema(config, root)
        edges = read_split(config, root, schema, "train")
        self.batches = Batches(config, schema, edges, config.train_data, ranks)
        self.validation = None
        if has_split(config, root, "validation"):
            data = config.validation_data or config.train_data.model_copy(update={"limit": None, "offset": 0})
            held_out = read_split(config, root, schema, "validation")
            self.validation = Batches(config, schema, held_out, data, ranks)
        self.model = build(config, schema, ranks)
        self.description = checkpoint.describe(config, schema)
        self.position = self._resume()
        self.metrics = MetricsLog(root, self.position.step)
        self.edges_per_epoch = len(edges)

    def run(self) -> None:
        """Steps to the end, leaving a checkpoint of the last step."""
        training, window = self.training, Window(self.ranks)
        total = self.edges_per_epoch * training.num_epochs
        done = self.edges_per_epoch * self.position.epoch + self.position.edges
        with Progress("train", total, "edges", done, quiet=not self.ranks.is_first) as progress:
            for batch, position, is_last in _with_last(self._remaining()):
                window.add(self.model.step(batch), batch.step_edges)
                self.position = position
                saves = is_last or position.step % training.checkpoint_every_n == 0
                # The loss is looked at before every checkpoint, so that none is kept of weights that are not finite.
                if saves or position.step % training.train_log_every_n == 0:
                    self.metrics.add(position.step, position.epoch, **window.close(position.step))
                if is_last or position.step % training.eval_log_every_n == 0:
                    self._validate()
                if saves:
                    self._save()
                progress.update(batch.step_edges, **window.figures)
        self._say("train: finished after step %d, epoch %d", self.position.step, self.position.epoch + 1)

    def _remaining(self) -> Iterator[tuple[Batch, Position]]:
        """The batches still to be learned from, each with the position after it."""
        step, first = self.position.step, self.position.edges
        for epoch in range(self.position.epoch, self.training.num_epochs):
            for batch, edges in self.batches.epoch(epoch, first):
                if step == self.training.num_train_steps:
                    return
                step += 1
                yield batch, Position(step=step, epoch=epoch, edges=edges)
            first = 0

    def _resume(self) -> Position:
        newest = checkpoint.newest(self.root)
        if newest is None:
            return Position()
        newest.check_fits(self.description)
        checkpoint.load(newest, self.model.state())
        self._say("train: continues after step %d, from its checkpoint", newest.step)
        return newest.marker.position

    def _say(self, message: str, *figures: int) -> None:
        if self.ranks.is_first:
            log.info(message, *figures)

    def _save(self) -> None:
        if self.ranks.is_first:
            self.metrics.write()
        keep = self.training.checkpoint_max_to_keep
        checkpoint.save(self.root, self.model.state(), self.position, self.description, keep)

    def _validate(self) -> None:
        """Logs the mean loss of the first validation edges, against negatives that are the same every time."""
        if self.validation is None:
            return
        total, edges = torch.zeros((), device=self.ranks.device), 0
        self.model.model.eval()
        with torch.no_grad():
            for count, batch in enumerate(self.validation.in_order()):
                if count == self.training.num_eval_steps:
                    break
                total += self.model.model(batch) * batch.step_edges
                edges += batch.step_edges
        self.model.model.train()
        self.metrics.add(self.position.step, self.position.epoch, validation_loss=self.ranks.sum(total) / edges)


def _with_last(steps: Iterator[tuple[Batch, Position]]) -> Iterator[tuple[Batch, Position, bool]]:
    """Tells the last step, so that it is logged, validated and saved whatever the intervals are."""
    current = next(steps, None)
    while current is not None:
        following = next(steps, None)
        yield *current, following is None
        current = following
