"""What a platform can do of a sweep, whichever it is."""

from __future__ import annotations

from typing import Literal

from twhin.pipelines.resources import Resources
from twhin_core.config import Config
from twhin_core.config.sweep import Sweep
from twhin_core.errors import UserError
from twhin_core.progress import log
from twhin_core.tuning.space import check, sweep_of

PLATFORMS = {"katib": "Katib", "vertex": "Vertex AI"}
MOST_FAILURES = 3
"""Failed trials after which a platform ends a sweep."""


def check_sweep(config: Config, resources: Resources, target: Literal["katib", "vertex"]) -> Sweep:
    """The sweep of `config`, which the platform can run.

    Raises:
        UserError: as `check`; a trial, which is one process, cannot use all of a `train` machine; or the platform
            cannot stop trials as the sweep says.
    """
    check(config)
    sweep, train, platform = sweep_of(config), resources.train, PLATFORMS[target]
    if train.has_several_machines:
        key = "nodes" if train.readers is None else "readers"
        raise UserError(f"train.{key}: a trial of a sweep runs on one machine; leave it out for --target {target}")
    if train.accelerator is not None and train.accelerator.count > 1:
        raise UserError("train.accelerator.count: a trial of a sweep uses one GPU; set it to 1")
    if sweep.stopping == "asha":
        raise UserError(f"sweep.stopping: {platform} stops trials by median only, not by asha; set median or null")
    if sweep.budget is not None:
        log.warning("compile: sweep.budget has no effect on %s, which runs all %d trials", platform, sweep.trials)
    return sweep
