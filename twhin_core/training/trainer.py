"""The trainer: opens the edges, builds the model, resumes, then steps until all epochs or steps are done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import FINISHED, Position
from twhin_core.checkpoints.description import model_description
from twhin_core.checkpoints.earlier import EarlierRun
from twhin_core.checkpoints.writer import CheckpointWriter
from twhin_core.config import Config
from twhin_core.data.epochs import State
from twhin_core.data.frequencies import Frequencies
from twhin_core.data.readers import read_secrets, served_edges
from twhin_core.data.remote import Remote
from twhin_core.data.splits import has_split, open_split
from twhin_core.dependents import note_use
from twhin_core.distributed.preemption import Preemption
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import CheckpointFailed, Diverged, Preempted, UserError
from twhin_core.graph.manifest import read_schema
from twhin_core.model.negatives import note_small_tables
from twhin_core.progress import Progress, log, log_of
from twhin_core.schema import check_prior
from twhin_core.tracking.stream import Sink
from twhin_core.training import plan
from twhin_core.training.anchored import fill_anchors
from twhin_core.training.batches import Batches, PreparedBatch
from twhin_core.training.build import build, warn_of_slow_products
from twhin_core.training.content import fill_content
from twhin_core.training.divergence import STEPS_BETWEEN_CHECKS, LossGuard, advice
from twhin_core.training.earlier import open_anchored, open_start
from twhin_core.training.explicit import explicit_negatives
from twhin_core.training.frequencies import count_together
from twhin_core.training.initialise import normalise_rows
from twhin_core.training.metrics_log import Interval, MetricsLog, peak_memory
from twhin_core.training.outside import OutsideRows
from twhin_core.training.placement import check_devices
from twhin_core.training.relation_weights import RelationWeights
from twhin_core.training.schedules import until
from twhin_core.training.validation import Patience, target_alone, validation_loss
from twhin_core.training.warm_start import WarmStart


class Trainer:
    """One rank's part of a run.

    Raises:
        UserError: a mistake in the config or the edges, a checkpoint of another model, or a loss that is not finite.
        Preempted: SIGTERM was received; the newest checkpoint is of the last step.
        CheckpointFailed: the final checkpoint could not be written.
        ReadersLost: no reader answered within the timeout.
    """

    def __init__(
        self, config: Config, root: str, ranks: Ranks, readers: Sequence[str] = (), sinks: Sequence[Sink] = ()
    ) -> None:
        check_devices(config.model.embeddings.tables, ranks.device.type == "cuda", ranks.world_size)
        self.config, self.training, self.root, self.ranks = config, config.training, root, ranks
        self.schema = read_schema(config, root)
        if ranks.is_first:
            note_small_tables(self.schema, config)
        self.newest = checkpoint.newest(root)
        self.position = Position() if self.newest is None else self.newest.marker.position
        log_of(step=self.position.step)
        resumes = self.newest is not None
        self.start = open_start(config, root, self.schema, ranks, resumes)
        self.anchored_to = None if resumes else open_anchored(config, root, self.schema, ranks, resumes)
        self.edges = open_split(config, root, self.schema, "train")
        self.outside = OutsideRows(config, root, self.schema, ranks, resumes)
        self.frequencies = self._count_frequencies()
        self.source = self._connect(readers)
        explicit = explicit_negatives(config, root, self.schema, "train", ranks)
        self.batches = Batches(
            config, self.schema, self.edges, config.train_data, ranks, self.frequencies, self.source, explicit
        )
        self.validation = self._read_validation()
        self.metrics = MetricsLog(root, self.position.step, ranks, sinks)
        self.patience = Patience(self.training.early_stopping, self.metrics.past("validation_loss"))
        if resumes and self.has_steps_left:  # a run that is done needs the earlier one no more
            self.anchored_to = open_anchored(config, root, self.schema, ranks, resumes)
        until_end = until(self._last_step(), config)
        self.model = build(until_end, self.schema, ranks, self.frequencies, len(self.edges))
        if ranks.is_first:
            warn_of_slow_products(config, ranks)
            plan.show(self.model.plan)
            plan.write(self.model.plan, root)
        fill_content(self.model.content(), root, self.schema)
        self.description = model_description(config, self.schema)
        self._resume()
        if self.anchored_to is not None:
            self._anchor(self.anchored_to)
        self.weights = self._weigh_relations()
        self.counted = target_alone(config.model, self.schema, ranks.device)

    def run(self) -> None:
        """Trains to the end and leaves a checkpoint of the last step."""
        try:
            self._run()
        except Diverged as error:
            if (of_weights := advice(self.edges, self.schema)) is not None:
                raise Diverged(error.what, of_weights) from None
            raise

    def _run(self) -> None:
        training, interval = self.training, Interval(self.ranks)
        if self.ranks.is_first:
            storage.remove(storage.join(self.root, FINISHED))
        guard = LossGuard(self._relations_after, STEPS_BETWEEN_CHECKS[self.ranks.device.type], self.ranks)
        kept, copies = training.checkpoint_max_to_keep, self.model.memory.copies
        writer = CheckpointWriter(self.root, self.description, kept, self.ranks, copies)
        with (
            Preemption(self.ranks) as preemption, writer, self.metrics, self._progress() as progress,
            self.source or contextlib.nullcontext(),
        ):  # fmt: skip
            for loss, (position, is_last) in self.model.steps(_with_last(interval.waiting(self._remaining()))):
                edges = position.edges_since(self.position)
                guard.add(loss, self.position)
                interval.add(loss, edges)
                self.position = position
                log_of(step=position.step)
                if is_last or position.step % training.train_log_every_n == 0:
                    self.metrics.add(position.step, position.epoch, **interval.close())
                if self.weights is not None and not is_last and self.weights.is_due(position.step):
                    self._adjust(self.weights)
                if self.validation is not None and (is_last or position.step % training.eval_log_every_n == 0):
                    self._validate(self.validation)
                is_preempted = preemption.agreed()
                ends = is_last or is_preempted or self.patience.is_over
                if ends or position.step % training.checkpoint_every_n == 0:
                    guard.check()  # no checkpoint after a loss that is not finite
                    self.metrics.write()
                    writer.save(self.model.state(), position)
                progress.update(edges, step=position.step, **interval.figures)
                if ends:
                    self._end(writer, is_preempted and not is_last and not self.patience.is_over)
                    self._say("train: %s edges/s, peak %s", f"{interval.speed():,.0f}", peak_memory(self.ranks.device))
                    break
        self._finish()

    @property
    def has_steps_left(self) -> bool:
        return self.position.step < self._last_step() and not self.patience.is_over

    def _remaining(self) -> Iterator[tuple[PreparedBatch, Position]]:
        """The batches still to train on, each with the position after it."""
        step = self.position.step
        for batch, state in self.batches.epochs(_state(self.position), self.training.num_epochs):
            if step == self.training.num_train_steps or self.patience.is_over:
                return
            step += 1
            yield batch, Position(step=step, **state)

    def _connect(self, readers: Sequence[str]) -> Remote | None:
        if not readers:
            return None
        served, timeout = served_edges(self.config, self.edges), self.training.readers_timeout_in_s
        return Remote(list(readers), served, read_secrets(), timeout)

    def _count_frequencies(self) -> Frequencies | None:
        """How often nodes occur in the training edges; None if nothing depends on it."""
        if not self.config.needs_frequencies:
            return None
        frequencies = count_together(self.edges, self.schema, self.ranks)
        edges = frequencies.totals(2 * len(self.schema.relations))[::2]
        check_prior(self.config.model, dict(zip(self.schema.names, edges.tolist(), strict=True)))
        return frequencies

    def _read_validation(self) -> Batches | None:
        config = self.config
        if not has_split(config, self.root, "validation"):
            if config.training.early_stopping is not None:
                raise UserError("training.early_stopping: there are no validation edges to compute a loss on")
            return None
        as_training = config.train_data.model_copy(update={"limit": None, "offset": 0, "remainder": "short"})
        data = config.validation_data or as_training
        held_out = open_split(config, self.root, self.schema, "validation")
        explicit = explicit_negatives(config, self.root, self.schema, "validation", self.ranks)
        return Batches(config, self.schema, held_out, data, self.ranks, self.frequencies, explicit=explicit)

    def _last_step(self) -> int:
        """The last step of training, unless it stops early."""
        ahead = self.batches.steps_left(_state(self.position), self.training.num_epochs)
        last = self.position.step + ahead
        return last if self.training.num_train_steps is None else min(last, self.training.num_train_steps)

    def _resume(self) -> None:
        """Loads the newest checkpoint of the run or, if there is none, what the config says to start from."""
        newest, initial, state = self.newest, self.training.initial_checkpoint_dir, self.model.state()
        if newest is not None:
            newest.check_fits(self.description)
            checkpoint.load(newest, state)
            self._say("train: resumes from the checkpoint of step %d", newest.step)
        elif self.start is not None:
            start = WarmStart(self.start, self.config, self.root, self.schema, state, self.ranks, self.outside)
            start.run(self.edges)
        elif initial is not None:
            if self.ranks.is_first:
                note_use(checkpoint.root_of_checkpoint(initial), self.root)
            found = checkpoint.load_initial(initial, state, self.description)
            for table in self.config.model.embeddings.tables:
                if table.is_spherical:  # the other model's rows may have any length
                    normalise_rows(state[f"tables.embeddings.{table.name}.weight"])
            self._say("train: starts from the weights of %s", found.url)
        if newest is None and self.start is None:
            self.outside.fill(state)
        self.model.optimizers.freeze(self.outside.frozen(state))
        self.model.optimizers.count_from(self.position.step)

    def _anchor(self, earlier: EarlierRun) -> None:
        targets = self.model.anchors()
        has_unseen = fill_anchors(earlier, self.config, self.root, self.schema, targets, self.edges, self.ranks)
        self.model.model.module.anchors.has_unseen = has_unseen  # type: ignore[union-attr]  # the config has an anchor

    def _weigh_relations(self) -> RelationWeights | None:
        config = self.config
        if config.model.target is None or not self.has_steps_left:
            return None
        held_out = open_split(config, self.root, self.schema, "validation")
        weights = RelationWeights(
            config, self.schema, self.edges, held_out, self.frequencies, self._last_step(), self.ranks
        )
        if self.newest is None:
            weights.start(self.model.model.module)
        return weights

    def _adjust(self, weights: RelationWeights) -> None:
        step, epoch = self.position.step, self.position.epoch
        with self.model.without_pipeline():
            found = weights.adjust(self.model.model.module, step)
        self.metrics.add(step, epoch, **{f"weight/{name}": weight for name, weight in found.items()})

    def _progress(self) -> Progress:
        epoch = self.batches.edges_per_epoch
        total, done = epoch * self.training.num_epochs, epoch * self.position.epoch + self.position.edges
        step, last = self.position.step, self._last_step()
        ahead = self.batches.steps_left(_state(self.position), self.training.num_epochs)
        if last - step < ahead:  # num_train_steps ends it before
            total = done + (total - done) * (last - step) // ahead
        return Progress("train", total, "edges", done, quiet=not self.ranks.is_first, steps=last)

    def _validate(self, validation: Batches) -> None:
        step, epoch = self.position.step, self.position.epoch
        with self.model.without_pipeline():
            loss = validation_loss(self.model, validation, self.training.num_eval_steps, self.ranks, self.counted)
        self.metrics.add(step, epoch, validation_loss=loss)
        self.patience.add(step, loss)

    def _end(self, writer: CheckpointWriter, is_preempted: bool) -> None:
        """Waits for the final checkpoint."""
        if not writer.wait():
            raise CheckpointFailed(f"the checkpoint of step {self.position.step}, the last, could not be written")
        if is_preempted:
            raise Preempted(f"SIGTERM: stopped after step {self.position.step}; run it again to resume from there")

    def _finish(self) -> None:
        step, reason = self.position.step, checkpoint.ALL_DONE
        if self.weights is not None:
            of = self.weights.listed(self.model.model.module)
            self._say("train: weights found for %s: %s", self.config.model.target, of)
        if self.patience.is_over:
            reason = f"the validation loss has not fallen since step {self.patience.best_step}"
        if self.ranks.is_first:
            storage.publish_json(storage.join(self.root, FINISHED), {"step": step, "reason": reason})
        self._say("train: finished after step %d, epoch %d: %s", step, self.position.epoch + 1, reason)

    def _relations_after(self, position: Position) -> list[str]:
        """The names of the relations in the batch that this rank takes after `position`."""
        rels = np.unique(self.batches.step_after(_state(position)).edges.rel)
        return [self.schema.relations[rel].name for rel in rels]

    def _say(self, message: str, *figures: object) -> None:
        if self.ranks.is_first:
            log.info(message, *figures)


def _state(position: Position) -> State:
    return State(epoch=position.epoch, edges=position.edges)


def _with_last(
    steps: Iterator[tuple[PreparedBatch, Position]],
) -> Iterator[tuple[PreparedBatch, tuple[Position, bool]]]:
    """Marks the last step, which is logged, validated and saved whatever the intervals are."""
    current = next(steps, None)
    while current is not None:
        following = next(steps, None)
        batch, position = current
        yield batch, (position, following is None)
        current = following
