"""A Kubernetes API server with Kubeflow Trainer, as far as following a TrainJob needs one, on loopback.

It grants what deploy/role.yaml grants, checks what is created as strictly as a cluster does, and says no more. What the
controllers of a cluster would do is up to a test, which gets a thread for it whenever a TrainJob is created.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import kubernetes_validate
import yaml

from tests import strict
from tests.command_line import ROOT
from tests.loopback import Answers, serving

NAMESPACE, ACCOUNT = "pipelines", "system:serviceaccount:pipelines:pipeline-runner"
Right = tuple[str, str, str]
"""Verb, API group, resource."""


@dataclass
class Pod:
    """A pod of a node, and its log."""

    name: str
    index: int
    job: str
    status: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    created: str = ""


@dataclass
class KubernetesServer:
    """What the cluster holds. `lock` is held by whoever changes it; it is notified of every change."""

    act: Callable[[KubernetesServer, str], None] = lambda *_: None
    rights: set[Right] = field(default_factory=set)
    has_trainer: bool = True
    train_jobs: dict[str, Any] = field(default_factory=dict)
    owned: list[Any] = field(default_factory=list)
    pods: dict[str, Pod] = field(default_factory=dict)
    used: list[Right] = field(default_factory=list)
    break_log_after: int | None = None
    """Bytes after which the next log breaks off."""
    failures: list[int] = field(default_factory=list)
    """Statuses that the next requests are answered with."""
    lock: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""

    def add_pod(self, job: str, index: int, attempt: str = "a", **status: Any) -> Pod:
        with self.lock:
            name = f"{job}-node-0-{index}-{attempt}"
            created = f"2026-01-01T00:00:{len(self.pods):02d}Z"
            self.pods[name] = Pod(name, index, job, {"phase": "Running", **status}, created=created)
            self.lock.notify_all()
            return self.pods[name]

    def say(self, pod: Pod, *lines: str) -> None:
        with self.lock:
            for line in lines:
                pod.lines.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}{len(pod.lines) % 1000:03d}Z {line}")
            self.lock.notify_all()

    def end_pod(self, pod: Pod, code: int, second: int = 0) -> None:
        ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "finishedAt": _second(second)}
        status = {"name": "node", "ready": False, "restartCount": 0, "image": "", "imageID": "", "state": {}}
        with self.lock:
            status["state"] = {"terminated": ended}
            pod.status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [status]}
            self.lock.notify_all()

    def end_job(self, name: str, kind: str, message: str = "jobset completed successfully") -> None:
        """`kind`: Complete or Failed."""
        with self.lock:
            condition = {"type": kind, "status": "True", "reason": "Ended", "message": message}
            self.train_jobs[name]["status"] = {"conditions": [condition]}
            self.lock.notify_all()

    def suspend(self, job: Any) -> None:
        """What Kueue and Trainer do with a TrainJob without quota."""
        condition = {"type": "Suspended", "status": "True", "reason": "Suspended", "message": "TrainJob is suspended"}
        with self.lock:
            job["spec"]["suspend"] = True
            job["status"] = {"conditions": [{**condition, "lastTransitionTime": _second(0)}]}

    def admit(self, name: str) -> None:
        condition = {"type": "Suspended", "status": "False", "reason": "Resumed", "message": "TrainJob is resumed"}
        with self.lock:
            self.train_jobs[name]["spec"]["suspend"] = False
            self.train_jobs[name]["status"] = {"conditions": [{**condition, "lastTransitionTime": _second(9)}]}
            self.lock.notify_all()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        with self.lock:
            assert self.lock.wait_for(holds, timeout=120)


def _second(second: int) -> str:
    return f"2026-01-01T00:01:{second:02d}Z"


def granted() -> set[Right]:
    """The rights of deploy/role.yaml."""
    role, _ = yaml.safe_load_all((ROOT / "deploy/role.yaml").read_text())
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@contextlib.contextmanager
def serve(kubeconfig: Path) -> Iterator[KubernetesServer]:
    """Runs a server and writes the kubeconfig that leads to it."""
    state = KubernetesServer(rights=granted())
    with serving(_Handler, state) as state.url:
        write_kubeconfig(kubeconfig, state.url)
        yield state


def write_kubeconfig(path: Path, url: str) -> None:
    here = {"cluster": "here", "user": "here", "namespace": NAMESPACE}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "contexts": [{"name": "here", "context": here}],
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "here", "user": {"token": "not-a-secret"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))


class _Handler(Answers, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: KubernetesServer

    def do_GET(self) -> None:
        self._serve("get")

    def do_POST(self) -> None:
        self._serve("create")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, verb: str) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, api, *parts = url.path.split("/")
        group = parts.pop(0) if api == "apis" else ""
        _version, _namespaces, namespace, resource, *rest = parts
        assert namespace == NAMESPACE
        if resource == "pods" and not rest:
            verb = "list"
        right = verb, group, "/".join([resource, *rest[1:]])
        with self.state.lock:
            if self.state.failures:
                return self._refuse(self.state.failures.pop(0), "etcdserver: leader changed")
            self.state.used.append(right)
            if group == "trainer.kubeflow.org" and not self.state.has_trainer:
                return self.send(404, b"404 page not found\n", "text/plain")
            if right not in self.state.rights:
                what = f'{right[2]}.{group} is forbidden: User "{ACCOUNT}" cannot {verb} resource "{right[2]}"'
                return self._refuse(403, f'{what} in API group "{group}" in the namespace "{namespace}"')
        if right[2] == "pods/log":
            return self._log(rest[0], query)
        with self.state.lock:
            getattr(self, f"_{verb}_{resource}")(*rest[:1], *([json.loads(body)] if verb == "create" else []), **query)
            self.state.lock.notify_all()
        return None

    def _get_trainjobs(self, name: str) -> None:
        job = self.state.train_jobs.get(name)
        if job is None:
            return self._refuse(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
        if job["metadata"].get("deletionTimestamp"):
            del self.state.train_jobs[name]  # the next look finds it gone
        return self.answer(job)

    def _create_trainjobs(self, job: Any, fieldValidation: str, dryRun: str = "") -> None:  # noqa: N803 -- Kubernetes'
        assert fieldValidation == "Strict"
        name = job["metadata"]["name"]
        if name in self.state.train_jobs:
            return self._refuse(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        try:
            strict.check_manifest(job)
        except jsonschema.ValidationError as error:
            return self._refuse(400, f"strict decoding error: {error.message}")
        if dryRun:
            assert dryRun == "All"
            return self.answer(job, 201)
        job["metadata"]["uid"] = f"uid-of-{name}"
        if "kueue.x-k8s.io/queue-name" in job["metadata"].get("labels", {}):  # as Kueue's webhook does
            self.state.suspend(job)
        self.state.train_jobs[name] = job
        self.answer(job, 201)
        threading.Thread(target=self.state.act, args=(self.state, name), daemon=True).start()
        return None

    def _delete_trainjobs(self, name: str, propagationPolicy: str) -> None:  # noqa: N803 -- Kubernetes' name
        assert propagationPolicy == "Foreground"
        if name not in self.state.train_jobs:
            return self._refuse(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
        self.state.train_jobs[name]["metadata"]["deletionTimestamp"] = _second(0)
        self.state.pods = {pod.name: pod for pod in self.state.pods.values() if pod.job != name}
        return self.answer(self.state.train_jobs[name])

    def _create_jobs(self, job: Any, **how: str) -> None:
        self._create_owned(job, **how)

    def _create_services(self, service: Any, **how: str) -> None:
        self._create_owned(service, **how)

    def _create_owned(self, manifest: Any, fieldValidation: str, dryRun: str = "") -> None:  # noqa: N803 -- Kubernetes'
        assert fieldValidation == "Strict"
        if any(_identity(there) == _identity(manifest) for there in self.state.owned):
            return self._refuse(409, "already exists")
        kubernetes_validate.validate(manifest, strict.KUBERNETES, strict=True)
        if not dryRun:
            self.state.owned.append(manifest)
        return self.answer(manifest, 201)

    def _list_pods(self, labelSelector: str) -> None:  # noqa: N803 -- Kubernetes' name
        wanted = dict(pair.split("=") for pair in labelSelector.split(","))
        job = wanted.pop("jobset.sigs.k8s.io/jobset-name")
        assert wanted == {"jobset.sigs.k8s.io/replicatedjob-name": "node"}
        pods = [pod for pod in self.state.pods.values() if pod.job == job]
        self.answer({"apiVersion": "v1", "kind": "PodList", "items": [_pod(pod) for pod in pods]})

    def _log(self, name: str, query: dict[str, str]) -> None:
        """As a kubelet: in chunks, until the container ends where `follow` asks for it."""
        with self.state.lock:
            pod = self.state.pods.get(name)
            breaks_after, self.state.break_log_after = self.state.break_log_after, None
        if pod is None:
            return self._refuse(404, f'pods "{name}" not found')
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = len(pod.lines) - int(query["tailLines"]) if "tailLines" in query else 0
        while True:
            with self.state.lock:
                if query.get("follow") == "true":
                    self.state.lock.wait_for(partial(_has_news, self.state, pod, sent), timeout=20)
                new, sent, over = pod.lines[max(0, sent) :], len(pod.lines), _is_over(self.state, pod)
            text = "".join(f"{line if 'timestamps' in query else line.partition(' ')[2]}\n" for line in new).encode()
            if breaks_after is not None and text:
                self._chunk(text[:breaks_after])
                self.close_connection = True
                return None
            self._chunk(text)
            if over or query.get("follow") != "true":
                self.wfile.write(b"0\r\n\r\n")
                return None

    def _chunk(self, text: bytes) -> None:
        if text:
            self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
            self.wfile.flush()

    def _refuse(self, status: int, message: str) -> None:
        self.answer({"kind": "Status", "status": "Failure", "message": message, "code": status}, status)


def _identity(manifest: Any) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _is_over(state: KubernetesServer, pod: Pod) -> bool:
    return pod.name not in state.pods or pod.status["phase"] in ("Succeeded", "Failed")


def _has_news(state: KubernetesServer, pod: Pod, sent: int) -> bool:
    return len(pod.lines) > sent or _is_over(state, pod)


def _pod(pod: Pod) -> Any:
    annotations = {"batch.kubernetes.io/job-completion-index": str(pod.index)}
    metadata = {"name": pod.name, "annotations": annotations, "creationTimestamp": pod.created}
    return {"metadata": metadata, "spec": {"containers": [{"name": "node"}]}, "status": pod.status}


def free_url() -> str:
    """An address where nothing listens."""

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
