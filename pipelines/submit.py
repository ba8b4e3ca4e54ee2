"""Starts a compiled pipeline on a platform. What cannot run there is refused before anything is sent."""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from twhin.components.run_root import RUN
from twhin.pipelines.resources import Target
from twhin.pipelines.run_root import check_shared
from twhin_core import storage
from twhin_core.config import file as config_file
from twhin_core.errors import GateFailed, TwhinError, UserError
from twhin_core.evaluation import gates
from twhin_core.progress import log

PAUSE = 15.0
"""Seconds between two looks at a run that is waited for."""
PATIENCE = 600.0
"""Seconds for which a platform that does not answer is asked again, once the run is there."""


class RunFailed(TwhinError):
    """The run that was waited for did not succeed."""


class Unreachable(TwhinError):
    """The platform does not answer, or not now; the same request may succeed later."""


@dataclass(frozen=True)
class Request:
    """What is to be started: `documents` as compiled, `parameters` the values of the pipeline's two."""

    path: str
    documents: list[Any]
    parameters: dict[str, str]
    name: str
    service_account: str | None = None
    cron: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Where a run stands. `state` as the platform words it; `failures` holds a line a task that failed."""

    state: str
    is_over: bool = False
    has_succeeded: bool = False
    failures: Sequence[str] = ()
    has_missed_gate: bool = False
    """A task was skipped, which nothing else does here: no task's result is taken from a cache."""


class Platform(Protocol):
    """A platform's client. Every method raises UserError or Unreachable, in one line."""

    def start(self, request: Request) -> str:
        """Starts the run and gives its id."""

    def schedule(self, request: Request) -> str:
        """Makes a recurring run and gives its id."""

    def link(self, run: str, is_schedule: bool) -> str:
        """Where a browser shows it."""

    def look(self, run: str) -> Outcome:
        """How the run is doing."""


def read(
    path: str,
    target: Target,
    run_root: str | None = None,
    overrides: Sequence[str] = (),
    name: str | None = None,
    service_account: str | None = None,
    cron: str | None = None,
) -> Request:
    """The compiled pipeline at `path`, checked for `target`.

    Raises:
        UserError: no such file, no compiled pipeline or one for another target, a value that the config does not take,
            or a run root that is missing, or that machines do not share, or that recurring runs do.
    """
    documents = _read_documents(path)
    compiled_for = "vertex" if len(documents) == 1 else "kubeflow"  # whose second document holds the pods' labels
    if target != compiled_for:
        raise UserError(f"{path} is compiled for {compiled_for}: compile it with --target {target}")
    if cron is not None and not re.fullmatch(r"[\d*/,\-A-Za-z?]+( [\d*/,\-A-Za-z?]+){4}", cron):
        raise UserError(f"--cron {cron!r}: expected five fields: minute, hour, day of month, month, day of week")
    try:
        defaults = documents[0]["root"]["inputDefinitions"]["parameters"]
        text = defaults["config"]["defaultValue"]
        overrides = [*defaults["overrides"].get("defaultValue", []), *overrides]
        root = run_root or defaults["run_root"].get("defaultValue")
    except (LookupError, TypeError):
        raise UserError(
            f"{path}: not a pipeline of `twhin compile`: it has no parameters config, overrides and run_root"
        ) from None
    config = config_file.parse(text, f"{path}: config", overrides)
    gates.check_names(config)
    if root is None:
        raise UserError(f"there is no run root: give --run-root, or compile {path} with it")
    if not storage.is_remote(root):
        check_shared(root, target, _shared_mounts(documents), has_nodes=_has_nodes(documents))
    if cron is not None and RUN not in root:
        raise UserError(
            f"--run-root {root}: all runs of --cron would share it, and find what the first has made; put {RUN} into it"
        )
    parameters = {"config": text, "overrides": overrides, "run_root": root}
    name = name or f"twhin {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    return Request(path, documents, parameters, name, service_account, cron)


def wait(platform: Platform, run: str) -> None:
    """Follows the run to its end.

    Raises:
        RunFailed: it failed or was cancelled.
        GateFailed: it has succeeded, but for the export.
        UserError: the platform refuses to tell of it.
        Unreachable: … or has not answered for `PATIENCE`. The run goes on in both cases.
    """
    shown, answered = "", time.monotonic()
    while True:
        try:
            outcome = platform.look(run)
            answered = time.monotonic()
        except Unreachable as error:
            if time.monotonic() - answered > PATIENCE:
                raise
            log.warning("%s; asking again", error)
        else:
            if outcome.state != shown:
                log.info("run %s: %s", run, outcome.state.lower())
                shown = outcome.state
            if outcome.has_succeeded and outcome.has_missed_gate:
                raise GateFailed("nothing was exported: a gate was missed; the summary of the task evaluate says which")
            if outcome.has_succeeded:
                return
            if outcome.is_over:
                raise RunFailed("; ".join([f"the run ended as {outcome.state.lower()}", *outcome.failures]))
        time.sleep(PAUSE)


def one_line(text: object, most: int = 400) -> str:
    """A platform's message as one line, cut where it is long."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[:most]} …"


def _read_documents(path: str) -> list[Any]:
    from google.protobuf import json_format
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec  # with all of KFP

    if not path.endswith((".yaml", ".yml")):
        raise UserError(f"{path}: expected a name that ends in .yaml")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; `twhin compile` writes it")
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text()))
        json_format.ParseDict(documents[0], PipelineSpec())
        for document in documents[1:]:
            json_format.ParseDict(document, PlatformSpec())
    except (yaml.YAMLError, json_format.ParseError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a compiled pipeline: {one_line(error)}") from None
    return documents


def _has_nodes(documents: list[Any]) -> bool:
    return "manifests" in documents[0]["root"]["dag"]["tasks"]["train"]["inputs"]["parameters"]


def _shared_mounts(documents: list[Any]) -> set[str]:
    """Where every task of the pipeline mounts a volume."""
    if len(documents) == 1:
        return set()
    placed = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    names = documents[0]["deploymentSpec"]["executors"]
    mounts = [
        {posixpath.normpath(mount["mountPath"]) for mount in placed.get(name, {}).get("pvcMount", [])} for name in names
    ]
    return set.intersection(*mounts)
