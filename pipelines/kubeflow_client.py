"""Starts and follows runs on Kubeflow Pipelines through its own client."""

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

from twhin.pipelines.submit import Outcome, Request
from twhin_core.errors import LONGEST_ANSWER, Unreachable, UserError, in_one_line

TOKEN = "TWHIN_KFP_TOKEN"  # noqa: S105 -- the name of a variable
"""Environment variable with a bearer token. Without it, the token that Kubernetes mounts into a pod is used, if any."""
EXPERIMENT = "twhin"
"""Of runs that name none."""
SUCCEEDED, FAILED = "SUCCEEDED", ("FAILED", "CANCELED", "SKIPPED")
TRANSIENT = (0, 408, 429, 500, 502, 503, 504)
"""Status codes worth a retry; 0 means no response."""


class _Client(Client):  # type: ignore[misc]  # kfp carries no types
    """Asks once, with a timeout. kfp's client retries for half a minute, logging tracebacks, or waits forever."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        health, _, headers = self._healthz_api.healthz_service_get_healthz_with_http_info(_request_timeout=10)
        if "json" not in headers.get("Content-Type", ""):
            raise kfp_server_api.ApiException(404, "received a web page instead, perhaps to log in")
        return health

    def get_run(self, run_id: str) -> Any:
        return self._run_api.run_service_get_run(run_id=run_id, _request_timeout=60)


class Kubeflow:
    """Runs at `host`, in the profile `namespace` if it is multi-user."""

    def __init__(self, host: str, namespace: str | None) -> None:
        self.host, self.namespace = host.rstrip("/"), namespace
        if not self.host.startswith(("http://", "https://")):
            raise UserError(f"--host {host}: expected http:// or https://")
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # no warnings on its three retries
        with self._asking("healthz"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the server's version
            self._client = _Client(
                self.host, existing_token=os.environ.get(TOKEN), credentials=_credentials(), namespace=namespace or ""
            )
            health = self._client.get_kfp_healthz()
        if health.multi_user and not (namespace or self._client.get_user_namespace()):
            raise UserError(f"{self.host} is multi-user: set --namespace to your profile")

    def start(self, request: Request) -> str:
        with self._asking("runs"):
            run = self._client.run_pipeline(
                self._experiment(request), request.name, request.path, request.parameters,
                service_account=request.service_account,
            )  # fmt: skip
            return str(run.run_id)

    def schedule(self, request: Request) -> str:
        with self._asking("recurring runs"):
            made = self._client.create_recurring_run(
                self._experiment(request), request.name, cron_expression=f"0 {request.cron}", no_catchup=True,
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
            f"{task.display_name}: {in_one_line(task.error.message, LONGEST_ANSWER) if task.error else 'see its log'}"
            for task in tasks
            if task.state == "FAILED"
        ]
        has_succeeded = state == SUCCEEDED
        has_missed_gate = any(task.state == "SKIPPED" for task in tasks)
        return Outcome(state, has_succeeded or state in FAILED, has_succeeded, failures, has_missed_gate)

    def _experiment(self, request: Request) -> str:
        """The id of the run's experiment, which is created if it does not exist."""
        made = self._client.create_experiment(request.experiment or EXPERIMENT, namespace=self.namespace)
        return str(made.experiment_id)

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turns errors of the client into one line, and drops the links that it prints."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            raise self._explain(error, what) from None
        except urllib3.exceptions.HTTPError as error:
            reason = in_one_line(getattr(error, "reason", error), LONGEST_ANSWER)
            raise Unreachable(f"{self.host}: no response: {reason}") from None

    def _explain(self, error: kfp_server_api.ApiException, what: str) -> Exception:
        message = _message(error)
        if error.status == 401:
            return UserError(f"{self.host}: not logged in: set {TOKEN} to a valid token ({message})")
        if error.status == 403:
            where = f" in {self.namespace}" if self.namespace else ""
            return UserError(f"{self.host}: no permission for {what}{where}; the role kubeflow-edit has it: {message}")
        if error.status == 404 and what == "healthz":
            return UserError(f"{self.host}: this is not the address of Kubeflow Pipelines: {message}")
        if error.status in TRANSIENT:
            return Unreachable(f"{self.host}: {message}")
        return UserError(f"{self.host}: {message}")


def _credentials() -> ServiceAccountTokenVolumeCredentials | None:
    path = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH
    return ServiceAccountTokenVolumeCredentials(path) if os.path.exists(path) else None


def _message(error: kfp_server_api.ApiException) -> str:
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, LookupError):
        message = error.reason
    return in_one_line(f"{error.status} {message}", LONGEST_ANSWER)
