"""Starts a compiled pipeline on a platform. Mistakes are found before anything is sent."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from twhin.components.run_root import RUN
from twhin.pipelines.resources import Target
from twhin.pipelines.run_root import check_shared
from twhin_core import storage
from twhin_core.config import file as config_file
from twhin_core.errors import LONGEST_ANSWER, GateFailed, TwhinError, Unreachable, UserError, in_one_line
from twhin_core.evaluation import checks
from twhin_core.progress import log
from twhin_core.series.continued import check_text

LONGEST_PARAMETERS = 10_000
"""Bytes of all parameters of a run, as JSON, that Kubeflow Pipelines accepts by default (kubeflow/pipelines#12510)."""
POLL_S = 15.0
"""Seconds between two requests for the state of a run."""
TIMEOUT_S = 600.0
"""How long to retry when the platform stops responding after the run was started."""


class RunFailed(TwhinError):
    """The run did not succeed."""


@dataclass(frozen=True)
class Request:
    """A compiled pipeline and the parameters to start it with."""

    path: str
    documents: list[Any]
    """The YAML documents of the file."""
    parameters: dict[str, Any]
    """The values of config, overrides and run_root, or series for a refresh."""
    name: str
    service_account: str | None = None
    cron: str | None = None
    experiment: str | None = None

    @property
    def root_name(self) -> str:
        """The parameter under whose value the run works: run_root, or series for a refresh."""
        return "series" if "series" in self.parameters else "run_root"

    @property
    def root(self) -> str:
        root: str = self.parameters[self.root_name]
        return root


@dataclass(frozen=True)
class Outcome:
    """The state of a run."""

    state: str
    """In the platform's words."""
    is_over: bool = False
    has_succeeded: bool = False
    failures: Sequence[str] = ()
    """One line per failed task."""
    has_missed_gate: bool = False
    """Whether a task was skipped. Only a missed gate skips one, since KFP's cache is off."""


class Platform(Protocol):
    """A platform's client. Every method raises UserError or Unreachable with a one-line message."""

    def start(self, request: Request) -> str:
        """Starts a run and returns its id."""

    def schedule(self, request: Request) -> str:
        """Creates a recurring run and returns its id."""

    def link(self, run: str, is_schedule: bool) -> str:
        """The URL of a run for a browser."""

    def look(self, run: str) -> Outcome:
        """The current state of a run."""


def read(
    path: str,
    target: Target,
    run_root: str | None = None,
    overrides: Sequence[str] = (),
    name: str | None = None,
    service_account: str | None = None,
    cron: str | None = None,
    series: str | None = None,
    experiment: str | None = None,
) -> Request:
    """Reads the compiled pipeline at `path` and checks that `target` can run it.

    Args:
        run_root, series: values of the parameters of these names; a pipeline has one of them.

    Raises:
        UserError: the file is missing, not a compiled pipeline, or compiled for another target; an override is invalid;
            the run would have no edges to evaluate on; the run root is missing or shared by the runs of `cron`; or the
            machines do not share it, or `prepare.graph`.
    """
    documents = _read_documents(path)
    compiled_for = "vertex" if len(documents) == 1 else "kubeflow"  # its second document has the pods' settings
    if target != compiled_for:
        raise UserError(f"{path} is compiled for {compiled_for}: compile it with --target {target}")
    if cron is not None and not re.fullmatch(r"[\d*/,\-A-Za-z?]+( [\d*/,\-A-Za-z?]+){4}", cron):
        raise UserError(f"--cron {cron!r}: expected five fields: minute, hour, day of month, month, day of week")
    try:
        defaults = documents[0]["root"]["inputDefinitions"]["parameters"]
        text = defaults["config"]["defaultValue"]
        overrides = [*defaults["overrides"].get("defaultValue", []), *overrides]
        root_name = "series" if "series" in defaults else "run_root"
        default = defaults[root_name].get("defaultValue")
    except (LookupError, TypeError):
        raise UserError(
            f"{path}: not made by `twhin compile`: it lacks the parameters config, overrides or run_root"
        ) from None
    given, other = (series, run_root) if root_name == "series" else (run_root, series)
    option, wrong = ("--series", "--run-root") if root_name == "series" else ("--run-root", "--series")
    if other is not None:
        what = "the refresh of a series" if root_name == "series" else "a run"
        raise UserError(f"{wrong} {other}: {path} is compiled for {what}; use {option}")
    if root_name == "series":
        config = check_text(text, overrides, f"{path}: config")
    else:
        config = config_file.parse(text, f"{path}: config", overrides)
    checks.check_pipeline(config)
    root = given or default
    if root is None:
        raise UserError(f"there is no {root_name.replace('_', ' ')}: set {option}, or compile {path} with it")
    graph = None if config.prepare is None else config.prepare.graph
    for key, place in ((option, root), ("prepare.graph", graph)):
        if place is not None and not storage.is_remote(place):
            check_shared(place, target, _shared_mounts(documents), _has_nodes(documents), key)
    if cron is not None and root_name == "run_root" and RUN not in root:
        raise UserError(
            f"--run-root {root}: all runs of --cron would share it and find the work already done; add {RUN} to it"
        )
    parameters = {"config": text, "overrides": overrides, root_name: root}
    name = name or f"twhin {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    return Request(path, documents, parameters, name, service_account, cron, experiment)


def with_short_parameters(request: Request) -> Request:
    """The request with its config in a file beside the runs, if the parameters are longer than all servers accept.

    Only a bucket can be written from here; for a run root on a volume, a warning says what may happen.
    """
    parameters = request.parameters
    size = len(json.dumps(parameters).encode())
    if size <= LONGEST_PARAMETERS:
        return request
    root, text = request.root, parameters["config"]
    if not storage.is_remote(root):
        log.warning(
            "submit: the config makes parameters of %s bytes, and Kubeflow Pipelines refuses more than %s unless it "
            "is configured otherwise; with a run root on an object store, a file would hold the config; relations that "
            "share their tables need only one entry, `*`",
            f"{size:,}", f"{LONGEST_PARAMETERS:,}",
        )  # fmt: skip
        return request
    folder = root.partition(RUN)[0].rpartition("/")[0] if RUN in root else root
    url = storage.join(folder, f"submitted/{hashlib.sha256(text.encode()).hexdigest()[:16]}.yaml")
    storage.write_text(url, text)
    return replace(request, parameters={**parameters, "config": url})


def wait(platform: Platform, run: str) -> None:
    """Follows the run to its end.

    Raises:
        RunFailed: it failed or was cancelled.
        GateFailed: it succeeded without exporting.
        UserError: the platform refuses to report its state. The run continues.
        Unreachable: the platform did not respond for `TIMEOUT_S`. The run continues.
    """
    shown, responded = "", time.monotonic()
    while True:
        try:
            outcome = platform.look(run)
            responded = time.monotonic()
        except Unreachable as error:
            if time.monotonic() - responded > TIMEOUT_S:
                raise
            log.warning("%s; trying again", error)
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
        time.sleep(POLL_S)


def _read_documents(path: str) -> list[Any]:
    from google.protobuf import json_format
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec  # imports all of KFP

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
        raise UserError(f"{path}: not a compiled pipeline: {in_one_line(error, LONGEST_ANSWER)}") from None
    return documents


def _has_nodes(documents: list[Any]) -> bool:
    tasks = documents[0]["root"]["dag"]["tasks"]
    return "train" in tasks and "manifests" in tasks["train"]["inputs"]["parameters"]


def _shared_mounts(documents: list[Any]) -> set[str]:
    """The paths at which every task of the pipeline mounts a volume."""
    if len(documents) == 1:
        return set()
    placed = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    names = documents[0]["deploymentSpec"]["executors"]
    mounts = [
        {posixpath.normpath(mount["mountPath"]) for mount in placed.get(name, {}).get("pvcMount", [])} for name in names
    ]
    return set.intersection(*mounts)
