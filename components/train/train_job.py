"""Trains through a TrainJob of Kubeflow Trainer: creates or finds it, follows it, and reports how it ended.

The job's name is derived from the run root, so that a restarted task finds the job of its predecessor.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import time
from collections.abc import Iterator

from twhin.components.run_root import is_below
from twhin.components.train.cluster import Cluster, Manifest, condition
from twhin.components.train.nodes import CONTAINER, Node, NodeLog, find_nodes
from twhin.components.train.quota import Wait
from twhin_core import heartbeat, storage
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.config import Config
from twhin_core.errors import Preempted, TwhinError, UserError, in_one_line
from twhin_core.progress import error_in, log, say
from twhin_core.run import open_run

POLL_S = 5.0
LAST_LINES = 20
"""Number of lines shown from the log of a failed node."""
DIGEST, RUN = "twhin/digest", "twhin/run"
"""Annotations of a TrainJob: the digest of its config and manifests, and the pipeline run that created it."""


class Stopped(Preempted):
    """This task received SIGTERM."""


class TrainJobFailed(TwhinError):
    """A node failed for a reason other than a user's mistake. A retry resumes from the newest checkpoint."""


def check(run_root: str, manifests: list[Manifest]) -> None:
    """Asks the cluster whether `train` could create the objects of `manifests`. Creates nothing.

    Raises:
        UserError: the machines do not share the root, the cluster has no TrainJob or runtime, or refuses.
        Unreachable: the cluster does not respond.
    """
    _check_shared(run_root, manifests[0])
    cluster = Cluster()
    train_job, *owned = _filled(manifests, run_root)
    cluster.create(train_job, dry_run=True)
    for manifest in owned:
        cluster.create_owned(manifest, dry_run=True)
    log.info("train: the cluster would accept the TrainJob")


def train(config: Config, run_root: str, manifests: list[Manifest], run: str) -> None:
    """Trains the run at `run_root` to the end through a TrainJob.

    Deletes the TrainJob on success and on SIGTERM. A failed one stays until the next attempt.

    Args:
        manifests: the TrainJob, then the objects it owns. `{name}` and `{run_root}` in their strings are replaced.
        run: the id of this pipeline run.

    Raises:
        UserError: the machines do not share the root, the cluster refuses, a different job is working on the root, or
            training ended with a user's mistake.
        TrainJobFailed: training failed for another reason.
        Unreachable: the cluster does not respond.
        Preempted: this task received SIGTERM.
    """
    _check_shared(run_root, manifests[0])
    name = name_of(run_root)
    train_job, *owned = _filled(manifests, run_root)
    made_of = json.dumps([train_job, owned, config.model_dump(mode="json")], sort_keys=True)
    annotations = {DIGEST: hashlib.sha256(made_of.encode()).hexdigest()[:16], RUN: run}
    train_job["metadata"]["annotations"] = {**train_job["metadata"].get("annotations", {}), **annotations}
    cluster = Cluster()
    with heartbeat.beating(run_root), _deleted_on_sigterm(cluster, name):
        job = _find(cluster, name)
        if job is not None and _is_active(job):
            _check_same(cluster, job, annotations)
            log.info("train: found the running TrainJob of an earlier attempt")
        else:
            open_run(config, run_root, "train")  # the nodes read the config from there
            if storage.exists(storage.join(run_root, FINISHED)):
                log.info("train: already done: %s", storage.join(run_root, FINISHED))
                cluster.delete(name)
                return
            if job is not None:
                _make_room(cluster, job, annotations)
            job = cluster.create(train_job)
        log.info("train: TrainJob %s in namespace %s", name, cluster.namespace)
        _follow(cluster, name, owned)
        cluster.delete(name)


def name_of(run_root: str) -> str:
    """The TrainJob's name: a DNS label, short enough that its pods' names are valid."""
    root = run_root.rstrip("/")
    readable = re.sub(r"[^a-z0-9]+", "-", root.rpartition("/")[2].lower()).strip("-")[:20]
    digest = hashlib.sha256(root.encode()).hexdigest()[:10]
    return "-".join(filter(None, ("twhin", readable.strip("-"), digest)))


def _check_shared(run_root: str, train_job: Manifest) -> None:
    """Raises UserError if the run root is not on a volume that the nodes of `train_job` mount."""
    if storage.is_remote(run_root):
        return
    pod = _pod_patch(train_job)
    claims = {volume["name"] for volume in pod.get("volumes", []) if "persistentVolumeClaim" in volume}
    mounts = [mount for container in pod.get("containers", []) for mount in container["volumeMounts"]]
    if not is_below(
        run_root, [mount["mountPath"] for mount in mounts if mount["name"] in claims and not mount.get("readOnly")]
    ):
        raise UserError(
            f"{run_root}: the training machines do not share this run root; "
            "use a gs:// prefix or another object store, or compile with a `volume` in the resources"
        )


def _pod_patch(train_job: Manifest) -> Manifest:
    """A TrainJob's patch of its nodes' pod spec."""
    (patch,) = train_job["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: Manifest = job["template"]["spec"]["template"]["spec"]
    return pod


def _filled(manifests: list[Manifest], run_root: str) -> list[Manifest]:
    """The manifests with placeholders replaced, and with integers in place of the floats that KFP turns them into."""
    text = json.dumps(manifests)
    for placeholder, value in (("{name}", name_of(run_root)), ("{run_root}", run_root)):
        text = text.replace(placeholder, json.dumps(value)[1:-1])
    filled: list[Manifest] = json.loads(text, parse_float=lambda number: int(float(number)))
    return filled


def _owned_by(job: Manifest) -> Manifest:
    """Metadata that makes Kubernetes delete an object together with, and before, the TrainJob."""
    owner = {key: job[key] for key in ("apiVersion", "kind")} | {key: job["metadata"][key] for key in ("name", "uid")}
    return {"ownerReferences": [{**owner, "blockOwnerDeletion": True}]}


@contextlib.contextmanager
def _deleted_on_sigterm(cluster: Cluster, name: str) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Stopped(f"SIGTERM: the TrainJob {name} is deleted; run it again to resume from the newest checkpoint")

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
    """The TrainJob, if it exists. Waits for one that is being deleted."""
    while (found := cluster.find(name)) is not None and "deletionTimestamp" in found["metadata"]:
        time.sleep(POLL_S)
    return found


def _check_same(cluster: Cluster, job: Manifest, annotations: dict[str, str]) -> None:
    """Raises UserError if the TrainJob has another config or manifests."""
    if job["metadata"].get("annotations", {}).get(DIGEST) != annotations[DIGEST]:
        raise UserError(
            f"the TrainJob {job['metadata']['name']} in namespace {cluster.namespace} is working on this run root with "
            "another config, image or resources; wait until it ends, or delete it"
        )


def _make_room(cluster: Cluster, job: Manifest, annotations: dict[str, str]) -> None:
    """Deletes a TrainJob that has ended.

    Raises:
        UserError: it ended with a user's mistake in this pipeline run. KFP retries whatever the exit code; the retry
            must not occupy the machines again.
    """
    of = job["metadata"].get("annotations", {})
    if condition(job, "Failed") is not None and annotations.items() <= of.items():
        failure = _failure(cluster, job)
        if isinstance(failure, UserError):
            raise failure
    cluster.delete(job["metadata"]["name"])
    gone = _find(cluster, job["metadata"]["name"])
    assert gone is None


def _is_active(job: Manifest) -> bool:
    return condition(job, "Complete") is None and condition(job, "Failed") is None


def _follow(cluster: Cluster, name: str, owned: list[Manifest]) -> None:
    """Copies the first node's log until the TrainJob has ended. Creates the objects it owns once it may start.

    Raises:
        TwhinError: it failed.
    """
    node_log, wait, logged = NodeLog(cluster), Wait(), ""
    while True:
        job = cluster.find(name)
        if job is None:
            raise TrainJobFailed(f"the TrainJob {name} was deleted by someone else")
        if _is_active(job) and wait.is_on(job):
            time.sleep(POLL_S)
            continue
        for manifest in owned:
            cluster.create_owned({**manifest, "metadata": {**manifest["metadata"], **_owned_by(job)}})
        owned = []
        nodes = find_nodes(cluster, name)
        first = next((node for node in reversed(nodes) if node.index == 0 and node.has_started), None)
        if first is not None:
            node_log.copy(first, follow=_is_active(job))
        if condition(job, "Complete") is not None:
            return
        if condition(job, "Failed") is not None:
            raise _failure(cluster, job)
        waiting = "; ".join(f"node {node.index}: {node.waits_for}" for node in nodes if node.waits_for)
        if waiting and waiting != logged:
            log.info("train: waiting: %s", waiting)
        logged = waiting
        time.sleep(POLL_S)


def _failure(cluster: Cluster, job: Manifest) -> TwhinError:
    """Why a TrainJob failed. Copies the last lines of the node to blame to stderr."""
    name, failed = job["metadata"]["name"], condition(job, "Failed")
    assert failed is not None
    ended = [node for node in find_nodes(cluster, name) if node.has_failed]
    if not ended:  # a machine was lost, or the job timed out
        return TrainJobFailed(f"the TrainJob {name} failed: {in_one_line(failed['message'])}")
    node = min(ended, key=_blame)
    lines = list(cluster.log(node.pod, CONTAINER, tail_lines=LAST_LINES))
    for line in lines:
        say(f"node {node.index}: {line}")
    reason = next((reason for line in reversed(lines) if (reason := error_in(line)) is not None), node.end)
    message = f"the TrainJob {name} failed: node {node.index} ({node.pod}): {reason}"
    kinds = {kind.exit_code: kind for kind in (UserError, Preempted)}
    return kinds.get(node.exit_code or 1, TrainJobFailed)(message)


def _blame(node: Node) -> tuple[bool, bool, float]:
    """Sort key: most nodes fail because another failed. Our exit codes are most informative, then the first to end."""
    return node.exit_code != UserError.exit_code, node.exit_code != Preempted.exit_code, node.ended_at
