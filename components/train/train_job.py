"""Training by a TrainJob of Kubeflow Trainer: create it or find it again, follow it, say how it ended.

Its name follows from the run root, so that a task that is restarted finds the job of the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from twhin.components.run_root import is_below
from twhin.components.train.cluster import Cluster, Manifest
from twhin.components.train.nodes import Node, NodeLog, find_nodes
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.config import Config
from twhin_core.errors import Preempted, TwhinError, UserError
from twhin_core.progress import log
from twhin_core.run import open_run

SECONDS_BETWEEN_LOOKS = 5.0
LAST_LINES = 20
"""As many of a failing node's log are shown."""
DIGEST, RUN = "twhin/digest", "twhin/run"
"""Annotations of a TrainJob: what it was made of, and the run of the pipeline that made it."""


class Stopped(Preempted):
    """SIGTERM came to this task."""


class TrainJobFailed(TwhinError):
    """A node has ended for another reason than a mistake of the user's; a retry goes on from the newest checkpoint."""


def check(run_root: str, manifests: list[Manifest]) -> None:
    """Asks the cluster whether `train` could create what `manifests` say; creates nothing.

    Raises:
        UserError: the machines cannot see the root, the cluster has no TrainJob or no runtime for it, or refuses.
        Unreachable: the cluster does not answer.
    """
    _check_shared(run_root, manifests[0])
    cluster = Cluster()
    train_job, *owned = (_filled(manifest, _words(run_root)) for manifest in manifests)
    cluster.create(train_job, dry_run=True)
    for manifest in owned:
        cluster.create_owned(manifest, dry_run=True)
    log.info("train: the cluster would take the TrainJob")


def train(config: Config, run_root: str, manifests: list[Manifest], run: str) -> None:
    """Trains the run at `run_root` to its end by the TrainJob that is the first of `manifests`; it owns the others.

    `{name}` and `{run_root}` in the manifests' strings are replaced. `run` tells this run of the pipeline from others.
    SIGTERM deletes the TrainJob; so does success. One that has failed stays until the next try.

    Raises:
        UserError: the machines cannot see the root, the cluster refuses, another job is at work on the root, or
            training has ended with a mistake of the user's.
        TrainJobFailed: it has ended otherwise.
        Unreachable: the cluster does not answer.
        Preempted: SIGTERM came.
    """
    _check_shared(run_root, manifests[0])
    name = name_of(run_root)
    train_job, *owned = (_filled(manifest, _words(run_root)) for manifest in manifests)
    made_of = json.dumps([train_job, owned, config.model_dump(mode="json")], sort_keys=True)
    annotations = {DIGEST: hashlib.sha256(made_of.encode()).hexdigest()[:16], RUN: run}
    train_job["metadata"]["annotations"] = annotations
    cluster = Cluster()
    with _deleted_on_sigterm(cluster, name):
        job = _find(cluster, name)
        if job is not None and _is_active(job):
            _check_same(cluster, job, annotations)
            log.info("train: finds the TrainJob of an earlier try at work")
        else:
            open_run(config, run_root, "train")  # the nodes read the config from there
            if storage.exists(storage.join(run_root, FINISHED)):
                log.info("train: finished already: %s", storage.join(run_root, FINISHED))
                cluster.delete(name)
                return
            if job is not None:
                _make_room(cluster, job, annotations)
            job = cluster.create(train_job)
        log.info("train: TrainJob %s in namespace %s", name, cluster.namespace)
        for manifest in owned:
            cluster.create_owned({**manifest, "metadata": {**manifest["metadata"], **_owned_by(job)}})
        _follow(cluster, name)
        cluster.delete(name)


def name_of(run_root: str) -> str:
    """The TrainJob's name: a label of DNS, short enough for the names of its pods."""
    root = run_root.rstrip("/")
    readable = re.sub(r"[^a-z0-9]+", "-", root.rpartition("/")[2].lower()).strip("-")[:20]
    digest = hashlib.sha256(root.encode()).hexdigest()[:10]
    return "-".join(filter(None, ("twhin", readable.strip("-"), digest)))


def _words(run_root: str) -> dict[str, str]:
    """What stands in manifests for what is known at run time alone."""
    return {"{name}": name_of(run_root), "{run_root}": run_root}


def _check_shared(run_root: str, train_job: Manifest) -> None:
    """Raises UserError if the run root is on a disk that the nodes of `train_job` do not mount."""
    if storage.is_remote(run_root):
        return
    pod = _pod_patch(train_job)
    claims = {volume["name"] for volume in pod.get("volumes", []) if "persistentVolumeClaim" in volume}
    mounts = [mount for container in pod.get("containers", []) for mount in container["volumeMounts"]]
    if not is_below(run_root, [mount["mountPath"] for mount in mounts if mount["name"] in claims]):
        raise UserError(
            f"{run_root}: the machines that train together do not share this run root; "
            "name a gs:// prefix, or compile with a `volume` in the resources"
        )


def _pod_patch(train_job: Manifest) -> Manifest:
    """What a TrainJob says of its nodes' pods, besides the trainer's container."""
    (patch,) = train_job["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: Manifest = job["template"]["spec"]["template"]["spec"]
    return pod


def _filled(value: Any, words: dict[str, str]) -> Any:
    """`value` with the words in its strings replaced, and whole numbers, which KFP has carried as floats."""
    if isinstance(value, dict):
        return {key: _filled(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, words) for item in value]
    if isinstance(value, float):
        return int(value)
    if isinstance(value, str):
        for word, meaning in words.items():
            value = value.replace(word, meaning)
    return value


def _owned_by(job: Manifest) -> Manifest:
    """What makes Kubernetes delete an object with, and before, the TrainJob."""
    owner = {key: job[key] for key in ("apiVersion", "kind")} | {key: job["metadata"][key] for key in ("name", "uid")}
    return {"ownerReferences": [{**owner, "blockOwnerDeletion": True}]}


@contextlib.contextmanager
def _deleted_on_sigterm(cluster: Cluster, name: str) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Stopped(f"SIGTERM: the TrainJob {name} is deleted; run it again to go on from its newest checkpoint")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cluster.delete(name)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _find(cluster: Cluster, name: str) -> Manifest | None:
    """The TrainJob, unless it is on its way out, for which this waits."""
    while (found := cluster.find(name)) is not None and "deletionTimestamp" in found["metadata"]:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return found


def _check_same(cluster: Cluster, job: Manifest, annotations: dict[str, str]) -> None:
    """Raises UserError if the TrainJob is at work on something else than what `annotations` are of."""
    if job["metadata"].get("annotations", {}).get(DIGEST) != annotations[DIGEST]:
        raise UserError(
            f"the TrainJob {job['metadata']['name']} in namespace {cluster.namespace} is at work on this run root with "
            "another config, image or resources; wait for its end, or delete it"
        )


def _make_room(cluster: Cluster, job: Manifest, annotations: dict[str, str]) -> None:
    """Deletes a TrainJob that has ended.

    Raises:
        UserError: it has ended by a mistake of the user's in this run of the pipeline, whose retries, which come
            whatever the exit code, are not to cost the machines again.
    """
    of = job["metadata"].get("annotations", {})
    if _condition(job, "Failed") is not None and annotations.items() <= of.items():
        failure = _failure(cluster, job)
        if isinstance(failure, UserError):
            raise failure
    cluster.delete(job["metadata"]["name"])
    gone = _find(cluster, job["metadata"]["name"])
    assert gone is None


def _is_active(job: Manifest) -> bool:
    return _condition(job, "Complete") is None and _condition(job, "Failed") is None


def _condition(job: Manifest, kind: str) -> Manifest | None:
    conditions: list[Manifest] = job.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind and entry["status"] == "True"), None)


def _follow(cluster: Cluster, name: str) -> None:
    """Passes on what the first node says until the TrainJob has ended.

    Raises:
        TwhinError: it has not ended well.
    """
    node_log, said = NodeLog(cluster), ""
    while True:
        job = cluster.find(name)
        if job is None:
            raise TrainJobFailed(f"the TrainJob {name} was deleted by somebody else")
        nodes = find_nodes(cluster, name)
        first = next((node for node in reversed(nodes) if node.index == 0 and node.has_begun), None)
        if first is not None:
            node_log.pass_on(first, follow=_is_active(job))
        if _condition(job, "Complete") is not None:
            return
        if _condition(job, "Failed") is not None:
            raise _failure(cluster, job)
        waiting = "; ".join(f"node {node.index}: {node.waits_for}" for node in nodes if node.waits_for)
        if waiting and waiting != said:
            log.info("train: waits: %s", waiting)
        said = waiting
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _failure(cluster: Cluster, job: Manifest) -> TwhinError:
    """Why a TrainJob has failed; what the node to blame said last goes to the log."""
    name, condition = job["metadata"]["name"], _condition(job, "Failed")
    assert condition is not None
    ended = [node for node in find_nodes(cluster, name) if node.has_failed]
    if not ended:  # its machine is gone, or its time was up
        return TrainJobFailed(f"the TrainJob {name} has failed: {' '.join(condition['message'].split())}")
    node = min(ended, key=_blame)
    lines = list(cluster.log(node.pod, node.container, tail_lines=LAST_LINES))
    for line in lines:
        sys.stderr.write(f"node {node.index}: {line}\n")
    reason = next((line for line in reversed(lines) if line.startswith("error: ")), node.end)
    message = f"the TrainJob {name} has failed: node {node.index} ({node.pod}): {reason.removeprefix('error: ')}"
    kinds = {kind.exit_code: kind for kind in (UserError, Preempted)}
    return kinds.get(node.exit_code or 1, TrainJobFailed)(message)


def _blame(node: Node) -> tuple[bool, bool, float]:
    """Most nodes that fail do so because another has: a code of ours says more, then the first to end."""
    return node.exit_code != UserError.exit_code, node.exit_code != Preempted.exit_code, node.ended_at
