"""The calls to Kubernetes that following a TrainJob takes, with errors that one line explains."""

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

from twhin_core.errors import TwhinError, UserError
from twhin_core.progress import log

Manifest = dict[str, Any]

TRAIN_JOBS = ("trainer.kubeflow.org", "v1alpha1")
SECONDS_OF_PATIENCE = 600
"""How long a cluster may be out of reach, once it has answered; at first, SECONDS_TO_ANSWER."""
SECONDS_TO_ANSWER = 60
SECONDS_A_REQUEST = (10, 30)
"""To connect, and between two pieces of an answer."""
PASSING = (408, 429, 500, 502, 503, 504)


class Unreachable(TwhinError):
    """The cluster does not answer; a retry may find it, and the TrainJob, again."""


class Cluster:
    """A namespace of the cluster that this pod is in, or that the kubeconfig names, seen with the pod's rights."""

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
        """The TrainJob of that name."""
        try:
            found: Manifest = self._call(self._custom.get_namespaced_custom_object, *self._train_jobs(), name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise self._refused(error) from None
        return found

    def create(self, manifest: Manifest, dry_run: bool = False) -> Manifest:
        """Creates a TrainJob, or finds it created; unknown fields are refused rather than dropped.

        With `dry_run` the cluster goes through all of its checks, and creates nothing.
        """
        try:
            created: Manifest = self._call(
                self._custom.create_namespaced_custom_object, *self._train_jobs(), manifest, **_how(dry_run)
            )
        except ApiException as error:
            found = self.find(manifest["metadata"]["name"]) if error.status == 409 else None
            if found is not None:  # the answer to the first try was lost
                return found
            if error.status == 404:
                raise UserError(
                    f"{self._host} has no TrainJob, or no namespace {self.namespace}: "
                    f"install Kubeflow Trainer 2.3, see deploy/README.md ({_message(error)})"
                ) from None
            raise self._refused(error) from None
        return created

    def create_owned(self, manifest: Manifest, dry_run: bool = False) -> None:
        """Creates a Job or a Service, unless it is there; `dry_run` as of `create`."""
        create = {
            "Job": self._batch.create_namespaced_job,
            "Service": self._core.create_namespaced_service,
        }[manifest["kind"]]
        try:
            self._call(create, self.namespace, manifest, **_how(dry_run))
        except ApiException as error:
            if error.status != 409:
                raise self._refused(error) from None

    def delete(self, name: str) -> None:
        """Deletes a TrainJob and, before it, what it owns; returns when that has begun."""
        try:
            self._call(
                self._custom.delete_namespaced_custom_object, *self._train_jobs(), name, propagation_policy="Foreground"
            )
        except ApiException as error:
            if error.status != 404:
                raise self._refused(error) from None

    def pods(self, selector: str) -> list[Any]:
        """The pods with these labels, oldest first."""
        try:
            found = self._call(self._core.list_namespaced_pod, self.namespace, label_selector=selector).items
        except ApiException as error:
            raise self._refused(error) from None
        return sorted(found, key=lambda pod: pod.metadata.creation_timestamp)

    def log(self, pod: str, container: str, **options: Any) -> Iterator[str]:
        """The lines of a container's log; ends early if the connection does, or nothing comes for some seconds."""
        try:
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, container=container, **options,
                _preload_content=False, _request_timeout=SECONDS_A_REQUEST,
            )  # fmt: skip
        except ApiException as error:
            if error.status == 403:
                raise self._refused(error) from None
            return  # the pod is gone or has not begun
        except urllib3.exceptions.HTTPError:
            return
        rest = b""
        try:
            for chunk in answer.stream(amt=None):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except urllib3.exceptions.HTTPError:
            return  # what is cut off comes whole with the next call
        finally:
            answer.release_conn()
        if rest:
            yield rest.decode(errors="replace")

    def _train_jobs(self) -> tuple[str, str, str, str]:
        group, version = TRAIN_JOBS
        return group, version, self.namespace, "trainjobs"

    def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Calls `function`, again and again while the cluster is out of reach or says that it cannot now.

        Raises:
            ApiException: the cluster's refusal.
            Unreachable: it has not answered for the time allowed.
        """
        deadline = time.monotonic() + (SECONDS_OF_PATIENCE if self._has_answered else SECONDS_TO_ANSWER)
        pause = 1.0
        while True:
            try:
                answer = function(*args, **options, _request_timeout=SECONDS_A_REQUEST)
            except ApiException as error:
                if error.status not in PASSING:
                    self._has_answered = True
                    raise
                said = f"it answers {error.status}, {_message(error)}"
            except urllib3.exceptions.HTTPError as error:
                said = _one_line(str(getattr(error, "reason", None) or error))
            else:
                self._has_answered = True
                return answer
            if time.monotonic() + pause > deadline:
                raise Unreachable(f"the cluster at {self._host} cannot be reached: {said}") from None
            log.warning("train: %s: %s; trying again", self._host, said)
            time.sleep(pause)
            pause = min(2 * pause, 30)

    def _refused(self, error: ApiException) -> UserError:
        message = _message(error)
        if error.status == 403 and " cannot " in message:  # so Kubernetes says what nobody has granted
            message += f"; in {self.namespace} the Role of deploy/role.yaml is missing, or not bound to that account"
        return UserError(f"{self._host}: {message}")


def _how(dry_run: bool) -> dict[str, str]:
    return {"field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}


def _message(error: ApiException) -> str:
    try:
        return _one_line(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return _one_line(str(error.body or error.reason))


def _one_line(text: str) -> str:
    return " ".join(text.split())
