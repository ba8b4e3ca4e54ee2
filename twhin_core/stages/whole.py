"""All stages of a run one after the other, as the pipeline has them, and what they leave: for notebooks and scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twhin_core import activity, lease, limits, storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.published import find_root
from twhin_core.run import saved_config

if TYPE_CHECKING:
    from twhin_core.embeddings import Embeddings
    from twhin_core.evaluation.metrics import Metrics


class Run:
    """What a run measured and learned, read when it is asked for."""

    def __init__(self, run_root: str | Path) -> None:
        """Opens the run at a folder or URL, or the published version of a series.

        Raises:
            UserError: there is no run.
        """
        self.root = find_root(str(run_root))
        self.config = saved_config(self.root)
        """As the last stage saved it."""

    @property
    def metrics(self) -> Metrics:
        """What `evaluation/metrics.json` holds: `run.metrics["test"]["all"]["mrr"]`.

        Raises:
            UserError: it has not been evaluated.
        """
        from twhin_core.evaluation.result import metrics_url, read_metrics

        split = self.config.evaluation.split
        found = read_metrics(self.root, split)
        if found is None:
            raise UserError(f"{self.root}: has not been evaluated: there is no {metrics_url(self.root, split)}")
        return found

    @cached_property
    def embeddings(self) -> Embeddings:
        """The vectors by table and id, and lists of nearest nodes: see `Embeddings`.

        Raises:
            UserError: nothing has been trained.
        """
        from twhin_core.embeddings import Embeddings

        return Embeddings.load(self.root)

    @property
    def report(self) -> str | None:
        """The URL of the report, an HTML page; None if there is none."""
        from twhin_core.stages.report import report_url

        url = report_url(self.root, self.config.evaluation.split)
        return url if storage.exists(url) else None

    def __repr__(self) -> str:
        return f"<Run at {self.root}>"


def train(config: str | Path | Mapping[str, Any] | Config, run_root: str | Path) -> Run:
    """Prepares, trains, evaluates and exports a run on this machine, as `twhin run` does.

    Calls the same functions in the same order; only what Kubeflow Pipelines would do around them is missing. What is
    finished under the run root is not done again, so that a call that was interrupted goes on where it was.

    Args:
        config: the path or URL of a YAML file, its content as a mapping, or a `Config`.
        run_root: the folder or URL of everything that the run produces.

    Raises:
        UserError: a mistake in the config or the data, in one line.
        GateFailed: the metrics miss a gate, so nothing was exported; `Run(run_root)` has them.
    """
    limits.use_cores()
    settings, root = _config(config), os.fspath(run_root)

    from twhin_core.distributed.launch import launch
    from twhin_core.evaluation import checks
    from twhin_core.evaluation.task import check_graph
    from twhin_core.export import formats
    from twhin_core.stages import evaluate, export, prepare, recommend
    from twhin_core.stages import train as training
    from twhin_core.stages.readers import find_readers

    checks.check_pipeline(settings)
    formats.check_installed(settings.export)
    with lease.hold(root, "run", grace=0), activity.noted(root, "run"):
        if settings.prepare is not None:
            prepare.prepare(settings, root)
            check_graph(settings, root)
        launch(training.train, settings, root, find_readers())
        launch(evaluate.evaluate, settings, root)
        export.export(settings, root)
        if settings.recommend:
            launch(recommend.recommend, settings, root)
    return Run(root)


def _config(given: str | Path | Mapping[str, Any] | Config) -> Config:
    if isinstance(given, Config):
        return given
    if isinstance(given, Mapping):
        return config_file.validate(Config, dict(given), "config")
    return config_file.load(os.fspath(given))
