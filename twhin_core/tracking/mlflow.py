"""Runs in MLflow, on a server or in an SQLite file."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twhin_core.errors import Unreachable, UserError, one_line
from twhin_core.tracking.tracker import FAILED, FINISHED, STOPPED, TRAINING, Gone, Point, Refused

T = TypeVar("T")

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # instead of 120 s and 7 retries, for which a stage would wait
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a session tries again by itself
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where results go
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Environment variables of the client, unless they are set."""
MOST_METRICS, MOST_PARAMETERS, MOST_TAGS = 1000, 100, 100
"""Per request."""
LONGEST_NAME, LONGEST_VALUE = 250, 6000
STATUS = {FINISHED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}


class MLflow:
    """A tracked run of an experiment."""

    name = "mlflow"

    def __init__(self, uri: str, experiment: str) -> None:
        """Raises UserError if the client is not installed. Connects to nothing yet."""
        for variable, value in SETTINGS.items():
            os.environ.setdefault(variable, value)
        try:
            import mlflow.tracking as library
        except ImportError as error:
            raise UserError(
                f"tracking.mlflow: needs mlflow-skinny ({one_line(error)}): pip install 'twhin[mlflow]'"
            ) from error
        self.place = f"{uri} {experiment}"
        self._uri, self._experiment, self._run = uri, experiment, ""
        with self._asking():
            self._client: Any = library.MlflowClient(uri)

    def create(self, title: str, tags: Mapping[str, str]) -> str:
        with self._asking():
            found = self._client.get_experiment_by_name(self._experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise Refused(
                    f"tracking.experiment: {self._experiment} was deleted in {self._uri}; restore or rename it"
                )
            experiment = found.experiment_id if found is not None else self._create_experiment()
            self._run = self._client.create_run(experiment, tags=dict(tags), run_name=title).info.run_id
        return self._run

    def _create_experiment(self) -> str:
        """Beside an SQLite file there is no server that keeps artifacts: they go to a folder next to it."""
        file = self._uri.partition("sqlite:///")[2]
        artifacts = f"{Path(file).absolute().parent}/mlflow-artifacts" if file else None
        made: str = self._client.create_experiment(self._experiment, artifact_location=artifacts)
        return made

    def resume(self, run: str) -> None:
        with self._asking():
            info = self._client.get_run(run).info
            if info.lifecycle_stage != "active":
                raise Gone(run)
            self._client.update_run(run, status="RUNNING")
        self._run = run

    def set_parameters(self, new: Mapping[str, str], changed: Mapping[str, str]) -> None:
        """A parameter cannot change in MLflow: another value becomes the tag `changed.<name>`."""
        from mlflow.entities import Param, RunTag

        with self._asking():
            for part in _parts(new.items(), MOST_PARAMETERS):
                parameters = [Param(_name(name), value[:LONGEST_VALUE]) for name, value in part]
                self._client.log_batch(self._run, params=parameters)
            for part in _parts(changed.items(), MOST_TAGS):
                tags = [RunTag(_name(f"changed.{name}"), value[:LONGEST_VALUE]) for name, value in part]
                self._client.log_batch(self._run, tags=tags)

    def add_points(self, points: Sequence[Point]) -> None:
        self._send(
            (TRAINING + name, value, point.time, point.step)
            for point in points
            for name, value in point.figures.items()
        )

    def set_figures(self, step: int, figures: Mapping[str, float]) -> None:
        now = time.time()
        self._send((name, value, now, step) for name, value in figures.items())

    def add_file(self, path: Path) -> None:
        with self._asking():
            self._client.log_artifact(self._run, str(path))

    def end(self, how: str) -> None:
        with self._asking():
            self._client.set_terminated(self._run, STATUS[how])

    def _send(self, figures: Iterable[tuple[str, float, float, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_name(name), value, round(when * 1000), step) for name, value, when, step in figures]
        with self._asking():
            for part in _parts(metrics, MOST_METRICS):
                self._client.log_batch(self._run, metrics=part)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turns errors of the client into ours."""
        import requests
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            message = f"{self._uri}: {one_line(error)}"
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and self._run == "":
                raise Gone(message) from None
            status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
            if 400 <= status < 500 and status != requests.codes.too_many_requests:
                raise Refused(f"tracking.mlflow: {message}") from None
            raise Unreachable(message) from None
        except (requests.RequestException, OSError) as error:
            raise Unreachable(f"{self._uri}: {one_line(error)}") from None


def _parts(items: Iterable[T], most: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while part := list(itertools.islice(remaining, most)):
        yield part


def _name(name: str) -> str:
    """`name` with characters that MLflow always allows: `recall@20` becomes `recall_at_20`, others their code."""
    plain = name.replace("@", "_at_").replace("/", ".")
    return re.sub(r"[^\w\-. :]", lambda found: f"_{ord(found[0]):x}_", plain, flags=re.ASCII)[:LONGEST_NAME]
