"""The Kubernetes calls needed to run a TrainJob, with one-line errors."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from kubernetes import client
from kubernetes import config as kubernetes_config
from kubernetes.client.exceptions import ApiException

from twhin_core.errors import Unreachable, UserError, in_one_line
from twhin_core.progress import log

Manifest = dict[str, Any]

TRAIN_JOBS = ("trainer.kubeflow.org", "v1alpha1")
FIRST_TIMEOUT_S, TIMEOUT_S = 60, 600
"""How long the cluster may be unreachable: before its first response, and after it."""
REQUEST_TIMEOUTS_S = (10, 30)
"""Timeouts to connect, and between two parts of a response."""
TRANSIENT = (408, 429, 500, 502, 503, 504)


class Cluster:
    """A namespace of the cluster that this pod runs in, or that the kubeconfig names."""

    def __init__(self) -> None:
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                kubernetes_config.load_incluster_config()
            else:
                kubernetes_config.load_kube_config(os.environ.get("KUBECONFIG"))
        except kubernetes_config.ConfigException as error:
            raise UserError(f"no Kubernetes cluster is known here: {error}") from None
        self.namespace = os.environ.get("TWHIN_NAMESPACE", "default")
        self._host = client.Configuration.get_default_copy().host
        self._custom, self._core, self._batch = client.CustomObjectsApi(), client.CoreV1Api(), client.BatchV1Api()
        self._has_answered = False

    def find(self, name: str) -> Manifest | None:
        """The TrainJob of that name, if it exists."""
        get = self._custom.get_namespaced_custom_object
        found: Manifest | None = self._call(get, *self._train_jobs(), name, accepted=404)
        return found

    def create(self, manifest: Manifest, dry_run: bool = False) -> Manifest:
        """Creates a TrainJob, or returns it if it exists. The cluster rejects unknown fields instead of dropping them.

        With `dry_run` the cluster validates the manifest and creates nothing.
        """
        try:
            created: Manifest = self._request(
                self._custom.create_namespaced_custom_object, *self._train_jobs(), manifest, **_how(dry_run)
            )
        except ApiException as error:
            found = self.find(manifest["metadata"]["name"]) if error.status == 409 else None
            if found is not None:  # the response to an earlier attempt was lost
                return found
            if error.status == 404:
                raise UserError(
                    f"{self._host} has no TrainJob, or no namespace {self.namespace}: "
                    f"install Kubeflow Trainer 2.3, see deploy/README.md ({_message(error)})"
                ) from None
            raise self._refused(error) from None
        return created

    def create_owned(self, manifest: Manifest, dry_run: bool = False) -> None:
        """Creates a Job or Service unless it exists. `dry_run` as in `create`."""
        create = {
            "Job": self._batch.create_namespaced_job,
            "Service": self._core.create_namespaced_service,
        }[manifest["kind"]]
        self._call(create, self.namespace, manifest, **_how(dry_run), accepted=409)

    def delete(self, name: str) -> None:
        """Starts to delete a TrainJob and, before it, the objects it owns."""
        delete = self._custom.delete_namespaced_custom_object
        self._call(delete, *self._train_jobs(), name, propagation_policy="Foreground", accepted=404)

    def pods(self, selector: str) -> list[Any]:
        """The pods with these labels, oldest first."""
        found = self._call(self._core.list_namespaced_pod, self.namespace, label_selector=selector).items
        return sorted(found, key=lambda pod: pod.metadata.creation_timestamp)

    def log(self, pod: str, container: str, **options: Any) -> Iterator[str]:
        """The lines of a container's log. Ends early if the connection breaks or is silent for some seconds."""
        try:
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, container=container, **options,
                _preload_content=False, _request_timeout=REQUEST_TIMEOUTS_S,
            )  # fmt: skip
        except ApiException as error:
            if error.status == 403:
                raise self._refused(error) from None
            return  # the pod is gone or has not started
        except urllib3.exceptions.HTTPError:
            return
        rest = b""
        try:
            for chunk in answer.stream(amt=None):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except urllib3.exceptions.HTTPError:
            return  # the next call reads the truncated line again
        finally:
            answer.release_conn()
        if rest:
            yield rest.decode(errors="replace")

    def _train_jobs(self) -> tuple[str, str, str, str]:
        group, version = TRAIN_JOBS
        return group, version, self.namespace, "trainjobs"

    def _call(self, function: Callable[..., Any], *args: Any, accepted: int | None = None, **options: Any) -> Any:
        """As `_request`, but a refusal is a UserError, or None if its status is `accepted`."""
        try:
            return self._request(function, *args, **options)
        except ApiException as error:
            if error.status == accepted:
                return None
            raise self._refused(error) from None

    def _request(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Calls `function` and retries while the cluster is unreachable or reports a transient error.

        Raises:
            ApiException: the cluster refused the request.
            Unreachable: the cluster did not respond within the timeout.
        """
        deadline = time.monotonic() + (TIMEOUT_S if self._has_answered else FIRST_TIMEOUT_S)
        pause = 1.0
        while True:
            try:
                answer = function(*args, **options, _request_timeout=REQUEST_TIMEOUTS_S)
            except ApiException as error:
                if error.status not in TRANSIENT:
                    self._has_answered = True
                    raise
                reason = f"status {error.status}, {_message(error)}"
            except urllib3.exceptions.HTTPError as error:
                reason = in_one_line(getattr(error, "reason", None) or error)
            else:
                self._has_answered = True
                return answer
            if time.monotonic() + pause > deadline:
                raise Unreachable(f"the cluster at {self._host} cannot be reached: {reason}") from None
            log.warning("train: %s: %s; trying again", self._host, reason)
            time.sleep(pause)
            pause = min(2 * pause, 30)

    def _refused(self, error: ApiException) -> UserError:
        message = _message(error)
        if error.status == 403 and " cannot " in message:  # Kubernetes' wording for a missing permission
            message += f"; bind the Role of deploy/role.yaml to that account in the namespace {self.namespace}"
        return UserError(f"{self._host}: {message}")


def condition(job: Manifest, kind: str) -> Manifest | None:
    """The condition of that type in a TrainJob's status, if it holds."""
    conditions: list[Manifest] = job.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind and entry["status"] == "True"), None)


def _how(dry_run: bool) -> dict[str, str]:
    return {"field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}


def _message(error: ApiException) -> str:
    try:
        return in_one_line(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return in_one_line(error.body or error.reason)
