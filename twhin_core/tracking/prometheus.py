"""The newest figures of training for Prometheus, as gauges: in a file for node-exporter, or at a Pushgateway."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from twhin_core import __version__
from twhin_core.config.tracking import Prometheus
from twhin_core.errors import StorageRefused, UserError, one_line
from twhin_core.progress import log

if TYPE_CHECKING:
    from prometheus_client import Gauge

TIMEOUT = 5.0
"""Seconds that a Pushgateway may take."""
JOB = "twhin"
PREFIX = "twhin_training_"
OF_RELATION = "weight/"
"""The start of the names of figures of single relations, which become one gauge with a label."""
HELP = {
    "step": "The last step that was logged.",
    "epoch": "The epoch of the last step, from 0.",
    "loss": "Mean loss since the line before.",
    "validation_loss": "Loss on validation edges.",
    "edges_per_s": "Edges per second over all ranks since the line before.",
    "data_wait": "Share of the time spent waiting for data.",
    "weight": "The weight that was found for a relation.",
    "updated": "When these figures were written, in seconds since the epoch.",
}


class Exposition:
    """A `Receiver`. A folder or gateway that fails costs one warning; training goes on."""

    def __init__(self, settings: Prometheus, run: str) -> None:
        """`run`: the label of the figures.

        Raises:
            UserError: the client is not installed.
            StorageRefused: there is no folder for the file.
        """
        try:
            import prometheus_client as client
        except ImportError as error:
            raise UserError(
                f"tracking.prometheus: needs prometheus-client ({one_line(error)}): pip install 'twhin[prometheus]'"
            ) from error
        self._textfile, self._gateway, self._run = settings.textfile, settings.pushgateway, run
        if self._textfile is not None and not Path(self._textfile).absolute().parent.is_dir():
            raise StorageRefused(f"tracking.prometheus.textfile: {self._textfile}: there is no such folder")
        self._registry = client.CollectorRegistry()
        self._gauges: dict[str, client.Gauge] = {}
        self._gauge("info", "The version that trains.", ("version",)).labels(run, __version__).set(1)
        self._updated = self._gauge("updated", HELP["updated"]).labels(run)
        self._memory = self._gauge("peak_memory_bytes", "Peak main memory of the first rank.").labels(run)
        self._is_due = self._has_warned = False

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        self._is_due = True
        for name, value in {"step": step, **figures}.items():
            if name.startswith(OF_RELATION):
                self._gauge("weight", HELP["weight"], ("relation",)).labels(
                    self._run, name.removeprefix(OF_RELATION)
                ).set(value)
            else:
                self._gauge(name, HELP.get(name, "As in training/metrics.jsonl.")).labels(self._run).set(value)

    def send(self) -> bool:
        """The last figures stay when training ends; `twhin_training_updated` says how old they are."""
        import prometheus_client as client

        if not self._is_due:
            return True
        self._updated.set(time.time())
        self._memory.set(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        try:
            if self._textfile is not None:
                client.write_to_textfile(self._textfile, self._registry)
            elif self._gateway is not None:
                client.pushadd_to_gateway(self._gateway, JOB, self._registry, {"run": self._run}, TIMEOUT)
        except OSError as error:  # among them those of the connection
            if not self._has_warned:
                self._has_warned = True
                goal = self._textfile or self._gateway
                log.warning("tracking.prometheus: %s: %s; later attempts will be silent", goal, one_line(error))
            return False
        self._is_due = False
        return True

    def _gauge(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Gauge:
        import prometheus_client as client

        if name not in self._gauges:
            plain = re.sub(r"\W", "_", name, flags=re.ASCII)
            self._gauges[name] = client.Gauge(PREFIX + plain, description, ("run", *labels), registry=self._registry)
        return self._gauges[name]
