"""Runs on Kubeflow Pipelines, by its own client."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import kfp_server_api
import urllib3
from kfp import Client
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH, ServiceAccountTokenVolumeCredentials

from twhin.pipelines.submit import Outcome, Request, Unreachable, one_line
from twhin_core.errors import UserError

TOKEN = "TWHIN_KFP_TOKEN"  # noqa: S105 -- the name of a variable
"""The environment variable with a bearer token. Without it, the token that Kubernetes mounts into a pod, if any."""
EXPERIMENT = "twhin"
SUCCEEDED, FAILED = "SUCCEEDED", ("FAILED", "CANCELED", "SKIPPED")
NOT_NOW = (0, 408, 429, 500, 502, 503, 504)
"""Statuses of answers that may be others a little later; 0 is none at all."""


class _Client(Client):  # type: ignore[misc]  # kfp carries no types
    """Asks the server once, with an end. kfp's own asks for half a minute, logging tracebacks, or waits for ever."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        health, _, headers = self._healthz_api.healthz_service_get_healthz_with_http_info(_request_timeout=10)
        if "json" not in headers.get("Content-Type", ""):
            raise kfp_server_api.ApiException(404, "a page came instead, perhaps one to log in")
        return health

    def get_run(self, run_id: str) -> Any:
        return self._run_api.run_service_get_run(run_id=run_id, _request_timeout=60)


class Kubeflow:
    """Runs at `host`, in the profile `namespace` where it has several users."""

    def __init__(self, host: str, namespace: str | None) -> None:
        self.host, self.namespace = host.rstrip("/"), namespace
        if not self.host.startswith(("http://", "https://")):
            raise UserError(f"--host {host}: expected http:// or https://")
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it tries again thrice; the end says why
        with self._asking("healthz"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it wants version 2 of the server
            self._client = _Client(
                self.host, existing_token=os.environ.get(TOKEN), credentials=_credentials(), namespace=namespace or ""
            )
            health = self._client.get_kfp_healthz()
        if health.multi_user and not (namespace or self._client.get_user_namespace()):
            raise UserError(f"{self.host} has several users: give --namespace, your profile's")

    def start(self, request: Request) -> str:
        with self._asking("runs"):
            run = self._client.run_pipeline(
                self._experiment(), request.name, request.path, request.parameters,
                service_account=request.service_account,
            )  # fmt: skip
            return str(run.run_id)

    def schedule(self, request: Request) -> str:
        with self._asking("recurring runs"):
            made = self._client.create_recurring_run(
                self._experiment(), request.name, cron_expression=f"0 {request.cron}", no_catchup=True,
                params=request.parameters, pipeline_package_path=request.path, service_account=request.service_account,
            )  # fmt: skip
            return str(made.recurring_run_id)

    def link(self, run: str, is_schedule: bool) -> str:
        return f"{self.host}/#/{'recurringrun' if is_schedule else 'runs'}/details/{run}"

    def look(self, run: str) -> Outcome:
        with self._asking("runs"):
            found = self._client.get_run(run)
        state = found.state or "PENDING"
        tasks = (found.run_details and found.run_details.task_details) or ()
        failures = [
            f"{task.display_name}: {one_line(task.error.message) if task.error else 'see its log'}"
            for task in tasks
            if task.state == "FAILED"
        ]
        has_succeeded = state == SUCCEEDED
        has_missed_gate = any(task.state == "SKIPPED" for task in tasks)
        return Outcome(state, has_succeeded or state in FAILED, has_succeeded, failures, has_missed_gate)

    def _experiment(self) -> str:
        return str(self._client.create_experiment(EXPERIMENT, namespace=self.namespace).experiment_id)

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turns the client's complaints into one line, and drops the links that it prints: ours follow."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            raise self._explain(error, what) from None
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{self.host}: no answer: {one_line(getattr(error, 'reason', error))}") from None

    def _explain(self, error: kfp_server_api.ApiException, what: str) -> Exception:
        message = _message(error)
        if error.status == 401:
            return UserError(f"{self.host}: not logged in: set {TOKEN} to a token that it takes ({message})")
        if error.status == 403:
            where = f" in {self.namespace}" if self.namespace else ""
            return UserError(f"{self.host}: no right to {what}{where}, as kubeflow-edit would give it: {message}")
        if error.status == 404 and what == "healthz":
            return UserError(f"{self.host}: no Kubeflow Pipelines answers there: {message}")
        if error.status in NOT_NOW:
            return Unreachable(f"{self.host}: {message}")
        return UserError(f"{self.host}: {message}")


def _credentials() -> ServiceAccountTokenVolumeCredentials | None:
    path = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH
    return ServiceAccountTokenVolumeCredentials(path) if os.path.exists(path) else None


def _message(error: kfp_server_api.ApiException) -> str:
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, LookupError):
        said = error.reason
    return one_line(f"{error.status} {said}")
