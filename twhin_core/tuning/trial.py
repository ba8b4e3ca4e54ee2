"""A trial: one combination of values, trained under a run root of its own and measured as its checkpoints appear."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.splits import open_split
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import decide
from twhin_core.evaluation.metrics import Metrics
from twhin_core.graph.manifest import read_schema
from twhin_core.run import TRIALS
from twhin_core.stages.prepare import prepare
from twhin_core.stages.track import track_trial
from twhin_core.tracking.tracker import FINISHED, STOPPED
from twhin_core.tuning.process import Training
from twhin_core.tuning.space import Values, measured, sweep_of, with_values

if TYPE_CHECKING:
    from twhin_core.checkpoints.checkpoint import Checkpoint

PREPARED = "prepared"
"""The run root, under that of the sweep, with the graph that the trials share."""

NO_BASELINES: Metrics = {"degrees": {}}
"""Stands for the metrics of another checkpoint, so that no baseline is ranked."""


def trial_root(root: str, number: int) -> str:
    """`number` counts from 0, as Optuna does; what people see counts from 1."""
    return storage.join(root, TRIALS, str(number + 1))


def trial_config(config: Config, values: Values, prepared: str | None) -> Config:
    """The config of a trial's run, on the graph of the run root `prepared`. Raises UserError as `with_values`."""
    made = with_values(config, values)
    if prepared is None or made.prepare is None:
        return made
    return made.model_copy(update={"prepare": made.prepare.model_copy(update={"graph": prepared})})


def last_step(config: Config, root: str) -> int:
    """The last step of a training by one rank that does not stop early."""
    data = config.train_data
    edges = len(open_split(config, root, read_schema(config, root), "train"))
    batch = data.per_replica_batch_size
    steps = (edges // batch if data.remainder == "drop" else -(-edges // batch)) * config.training.num_epochs
    most = config.training.num_train_steps
    return max(1, steps if most is None else min(steps, most))


def with_looks(config: Config, root: str, looks: int) -> Config:
    """The config with a checkpoint at each look, all of which stay until they are measured."""
    every = -(-last_step(config, root) // looks)
    update = {
        "checkpoint_every_n": every,
        "checkpoint_max_to_keep": None,
        "keep_checkpoints_after_success": None,
    }
    return config.model_copy(update={"training": config.training.model_copy(update=update)})


class Looks:
    """Measures the checkpoints of a run by the sweep's metric, oldest first."""

    def __init__(self, config: Config, own: Config, root: str) -> None:
        """`own`: the config of the trial, which `config` has the sweep for."""
        self.metric = sweep_of(config).metric
        self._config = measured(own.model_copy(update={"sweep": config.sweep}))
        self._root, self._every = root, own.training.checkpoint_every_n
        self._steps = last_step(own, root)

    def number(self, step: int) -> int:
        """The number of the look, from 1, at which the checkpoint of a step is measured."""
        return -(-step // self._every)

    def share(self, step: int) -> float:
        """How much of the training is done at a step."""
        return min(1.0, step / self._steps)

    def step(self, share: float) -> int:
        """The step at which so much of the training was done."""
        return round(share * self._steps)

    def waiting(self, done: int) -> list[Checkpoint]:
        """The complete checkpoints of later looks than `done`: of regular steps, and of the last."""
        from twhin_core.checkpoints.checkpoint import FINISHED, complete

        is_finished = storage.exists(storage.join(self._root, FINISHED))
        found = [of for of in complete(self._root) if self.number(of.step) > done]
        return [of for of in found if of.step % self._every == 0 or (is_finished and of is found[-1])]

    def measure(self, checkpoint: Checkpoint) -> float:
        """The metric. Raises UserError as `evaluation.measure`, or if no held-out edge counts for it."""
        from twhin_core.evaluation.measure import measure

        metrics = measure(self._config, self._root, checkpoint, NO_BASELINES).metrics
        (found,) = decide(self._config, metrics)["gates"]
        if found["value"] is None:
            raise UserError(f"sweep.metric: {found['reason']}")
        return float(found["value"])


class Trial:
    """A trial that is being trained, by a process of its own, and measured by this one."""

    def __init__(
        self,
        config: Config,
        values: Values,
        root: str,
        prepared: str | None,
        curve: Sequence[tuple[float, float]] = (),
        processes: int = 1,
        own_log: bool = True,
    ) -> None:
        """Goes on where an earlier process left the run at `root`.

        Args:
            config: has the sweep.
            curve: what was measured before, as `curve`.
            processes: how many trials share the machine's cores.
            own_log: whether the training logs to a file under `root`, not to this process's stderr.

        Raises:
            UserError: the values do not fit together; or as `prepare`.
        """
        self.root, self.started = root, time.monotonic()
        own = trial_config(config, values, prepared)
        if own.prepare is not None:
            prepare(own, root)
        sweep = sweep_of(config)
        self._kept = own.training.keep_checkpoints_after_success
        self._own = own = with_looks(own, root, sweep.looks)
        self._looks = Looks(config, own, root)
        self.curve = list(curve)
        """(share of training, metric) at each look."""
        self._training = Training(config_file.to_line(own), root, processes, own_log)

    def look(self) -> bool:
        """Measures a checkpoint that has not been measured. Returns whether there was one."""
        waiting = self._looks.waiting(len(self.curve))
        if waiting:
            self.curve.append((self._looks.share(waiting[0].step), self._looks.measure(waiting[0])))
        return bool(waiting)

    @property
    def value(self) -> float | None:
        """The metric at the last look."""
        return self.curve[-1][1] if self.curve else None

    @property
    def share(self) -> float:
        """How much of its training was done at the last look."""
        return self.curve[-1][0] if self.curve else 0.0

    @property
    def seconds(self) -> float:
        """Since it was started here."""
        return time.monotonic() - self.started

    def is_over(self) -> bool:
        """Whether training has ended. Ask before `look`, so that no checkpoint of it is missed."""
        return self._training.is_over()

    @property
    def error(self) -> str | None:
        """Why the training that is over failed, if it did."""
        return self._training.error()

    def stop(self) -> None:
        """Ends the training at once; another process may go on with it."""
        self._training.stop()

    def give_up(self) -> None:
        """Ends the training for good, and tells the trackers the figure so far."""
        self.stop()
        self._track(STOPPED)

    def _track(self, how: str) -> None:
        assert self.value is not None
        track_trial(self._own, self.root, self._looks.step(self.share), {self._looks.metric: self.value}, how)

    def finish(self) -> None:
        """Tells the trackers the figure, and keeps as many checkpoints as the config says. All have been measured."""
        from twhin_core.checkpoints import checkpoint

        self._track(FINISHED)
        for old in checkpoint.complete(self.root)[: -self._kept] if self._kept is not None else ():
            checkpoint.remove(old)
