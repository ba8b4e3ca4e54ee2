"""Training by a TrainJob, against a server that speaks Kubernetes' endpoints, through the real client."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import ROOT
from tests.components.conftest import as_kfp_gives
from tests.conftest import SmallConfig
from tests.kubernetes_server import KubernetesServer, Pod, free_url, granted, write_kubeconfig
from twhin.components.train import cluster, quota, train_job
from twhin.components.train.check_component import check_cluster
from twhin.components.train.train_job import TrainJobFailed, name_of
from twhin.pipelines import pod_section, resources, trainjob
from twhin.pipelines.resources import Resources
from twhin_core import heartbeat
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import Preempted, Unreachable, UserError

READERS = {"count": 3, "cpu": "2", "memory": "4Gi", "token": "twhin-readers"}


def start_nodes(server: KubernetesServer, name: str, count: int = 2) -> list[Pod]:
    return [server.add_pod(name, index) for index in range(count)]


def succeed(server: KubernetesServer, name: str) -> None:
    """What a cluster does with a TrainJob that trains well."""
    nodes = start_nodes(server, name)
    server.say(nodes[1], "this is node 1")
    server.say(nodes[0], *(f"step {step}" for step in range(5)))
    for node in nodes:
        server.end_pod(node, 0)
    server.end_job(name, "Complete")


def fail(*codes: int, last: tuple[str, ...] = ("Traceback", "error: said by node {index}")) -> Callable[..., None]:
    """What a cluster does with one whose nodes end with these codes, the last one first."""

    def act(server: KubernetesServer, name: str) -> None:
        nodes = start_nodes(server, name, len(codes))
        for index, (node, code) in enumerate(zip(nodes, codes, strict=True)):
            server.say(node, "began", *(line.format(index=index) for line in last))
            server.end_pod(node, code, second=len(codes) - index)
        server.end_job(name, "Failed", "jobset failed due to one or more job failures")

    return act


def created(server: KubernetesServer) -> int:
    return server.used.count(("create", "trainer.kubeflow.org", "trainjobs"))


def test_it_is_created_followed_and_deleted(
    server: KubernetesServer, train: Callable[..., None], root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = []
    server.act = lambda server, name: (jobs.append(dict(server.train_jobs[name])), succeed(server, name))[1]
    train()
    (job,) = jobs
    trainer = job["spec"]["trainer"]
    assert job["metadata"]["name"] == name_of(root)
    assert trainer["command"] == ["twhin", "launch", "train", f"{root}/config.yaml", "--run-root", root]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "90", "memory": "1200Gi", "nvidia.com/gpu": "8"}
    assert (Path(root) / "config.yaml").exists()  # which the nodes read
    said = capfd.readouterr().err
    assert [line for line in said.splitlines() if line.startswith("step")] == [f"step {step}" for step in range(5)]
    assert "this is node 1" not in said
    assert server.train_jobs[name_of(root)]["metadata"]["deletionTimestamp"]
    assert created(server) == 1


def test_the_role_grants_what_it_takes_and_no_more(server: KubernetesServer, train: Callable[..., None]) -> None:
    server.act = succeed
    train(readers=resources.Readers(**READERS))
    # Following finalizers is the API server's own check of `blockOwnerDeletion`.
    assert granted() - {("update", "trainer.kubeflow.org", "trainjobs/finalizers")} == set(server.used)


def test_readers_are_found_by_the_trainers_and_go_with_the_train_job(
    server: KubernetesServer, train: Callable[..., None], root: str
) -> None:
    server.act = succeed
    train(readers=resources.Readers(**READERS))
    name = name_of(root)
    (uid,) = {owner["uid"] for manifest in server.owned for owner in manifest["metadata"]["ownerReferences"]}
    assert uid == f"uid-of-{name}"
    owned = {manifest["kind"]: manifest for manifest in server.owned}
    job, service = owned["Job"], owned["Service"]
    pod = job["spec"]["template"]["spec"]
    env = {entry["name"]: entry.get("value") for entry in server.train_jobs[name]["spec"]["trainer"]["env"]}
    # As Kubernetes names the pods of an Indexed Job in the domain of a headless Service.
    hosts = [f"{job['metadata']['name']}-{index}.{pod['subdomain']}" for index in range(job["spec"]["completions"])]
    assert env["TWHIN_READERS"] == ",".join(f"{host}:2222" for host in hosts)
    assert pod["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    (reader,) = pod["containers"]
    assert {"name": "TWHIN_TASK_TYPE", "value": "reader"} in reader["env"]
    assert {"name": "TWHIN_BIND", "value": "0.0.0.0:2222"} in reader["env"]
    token = {"secretKeyRef": {"name": "twhin-readers", "key": "token"}}
    for container in (reader, server.train_jobs[name]["spec"]["trainer"]):
        assert {"name": "TWHIN_READER_TOKEN", "valueFrom": token} in container["env"]


def test_each_line_comes_once_though_the_connection_breaks(
    server: KubernetesServer, train: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    server.break_log_after = 70  # within the second line

    def act(server: KubernetesServer, name: str) -> None:
        nodes = start_nodes(server, name)
        server.say(nodes[0], "step 0", "step 1")
        server.wait_until(lambda: server.used.count(("get", "", "pods/log")) > 1)
        server.say(nodes[0], "step 2")
        server.end_pod(nodes[0], 0)
        server.end_job(name, "Complete")

    server.act = act
    train()
    assert [line for line in capfd.readouterr().err.splitlines() if "step" in line] == ["step 0", "step 1", "step 2"]


def test_a_failure_says_what_the_node_to_blame_said_last(
    server: KubernetesServer, train: Callable[..., None], root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server.act = fail(1, 1)
    with pytest.raises(TrainJobFailed, match=r"node 1 \(.*-node-0-1-a\): said by node 1$") as caught:
        train()
    assert caught.value.exit_code == 1  # another try goes on from the newest checkpoint
    assert "node 1: Traceback" in capfd.readouterr().err
    assert "deletionTimestamp" not in server.train_jobs[name_of(root)]["metadata"]  # it stays to be looked at


@pytest.mark.parametrize(
    ("codes", "kind", "blamed"), [((1, 2), UserError, 1), ((2, 1), UserError, 0), ((75, 1), Preempted, 0)]
)
def test_a_code_of_ours_says_more_than_who_ended_first(
    server: KubernetesServer, train: Callable[..., None], codes: tuple[int, int], kind: type[Exception], blamed: int
) -> None:
    server.act = fail(*codes)
    with pytest.raises(kind, match=f"said by node {blamed}"):
        train()


def test_without_a_last_word_the_code_is_told(server: KubernetesServer, train: Callable[..., None]) -> None:
    server.act = fail(137, 0, last=())
    with pytest.raises(TrainJobFailed, match=r"node 0 .* ended with code 137"):
        train()


def test_a_job_that_fails_without_its_pods_says_why(server: KubernetesServer, train: Callable[..., None]) -> None:
    server.act = lambda server, name: server.end_job(name, "Failed", "deadline\nexceeded")
    with pytest.raises(TrainJobFailed, match="failed: deadline exceeded"):
        train()


def test_a_retry_replaces_the_job_that_failed(server: KubernetesServer, train: Callable[..., None]) -> None:
    server.act = fail(1, 1)
    with pytest.raises(TrainJobFailed):
        train()
    server.act = succeed
    train()
    assert created(server) == 2


def test_a_mistake_of_the_users_costs_no_machines_again_but_in_another_run(
    server: KubernetesServer, train: Callable[..., None]
) -> None:
    server.act = fail(1, 2)
    for _ in range(2):
        with pytest.raises(UserError, match="said by node 1"):
            train()
    assert created(server) == 1
    server.act = succeed
    train(run="run-2")
    assert created(server) == 2


SCRIPT = """
import json, sys
from twhin.components.train import train_job
from twhin_core import heartbeat
from twhin_core.config import file as config_file
train_job.POLL_S, heartbeat.BEAT_S = 0.02, 0.2
config, root, manifests = sys.argv[1:]
train_job.train(config_file.load(config), root, json.loads(manifests), "run-1")
"""


def start_task(config: Config, root: str, needs: Resources, folder: Path) -> subprocess.Popen[str]:
    """The train task as a process of its own."""
    path = folder / "config.yaml"
    path.write_text(config_file.to_yaml(config))
    arguments = [str(path), root, json.dumps(trainjob.manifests(needs))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_a_task_that_is_killed_finds_its_job_again(
    server: KubernetesServer, train: Callable[..., None], small_config: SmallConfig, needs: Resources, root: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    server.act = lambda server, name: server.say(start_nodes(server, name)[0], "step 0")
    task = start_task(small_config(), root, needs, tmp_path)
    assert task.stderr is not None
    try:
        for line in task.stderr:  # it follows
            if line == "step 0\n":
                break
        else:
            raise AssertionError("it has ended")
    finally:
        task.kill()
        task.communicate()

    def finish() -> None:
        server.wait_until(lambda: server.used.count(("get", "", "pods/log")) > 1)  # the second task follows
        server.end_job(name_of(root), "Complete")
        for pod in list(server.pods.values()):
            server.end_pod(pod, 0)

    thread = threading.Thread(target=finish)
    thread.start()
    train()
    thread.join()
    assert created(server) == 1


def test_sigterm_deletes_the_job(server: KubernetesServer, train: Callable[..., None], root: str) -> None:
    def act(server: KubernetesServer, name: str) -> None:
        start_nodes(server, name)
        server.wait_until(lambda: ("get", "", "pods/log") in server.used)
        os.kill(os.getpid(), signal.SIGTERM)

    server.act = act
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="SIGTERM"):
        train()
    assert server.train_jobs[name_of(root)]["metadata"]["deletionTimestamp"]
    assert signal.getsignal(signal.SIGTERM) is before
    server.act = succeed
    train()  # and the next one waits until it is gone
    assert created(server) == 2


def test_another_config_does_not_take_over_a_job_at_work(
    server: KubernetesServer, train: Callable[..., None], root: str
) -> None:
    name = name_of(root)
    server.train_jobs[name] = {
        "metadata": {"name": name, "annotations": {"twhin/digest": "of another", "twhin/run": "run-1"}}
    }
    with pytest.raises(UserError, match=f"{name} in namespace pipelines is working on this run root with another"):
        train()
    assert created(server) == 0
    assert "deletionTimestamp" not in server.train_jobs[name]["metadata"]


def test_training_that_has_finished_takes_no_machines(
    server: KubernetesServer, train: Callable[..., None], root: str
) -> None:
    finished = Path(root) / "training/finished.json"
    finished.parent.mkdir(parents=True)
    finished.write_text('{"step": 1, "reason": "all steps are done"}')
    name = name_of(root)
    ended = {"conditions": [{"type": "Complete", "status": "True", "message": ""}]}
    server.train_jobs[name] = {
        "metadata": {"name": name},
        "status": ended,
    }  # whose task was killed before it could say so
    train()
    assert created(server) == 0
    assert server.train_jobs[name]["metadata"]["deletionTimestamp"]


def test_what_a_node_waits_for_is_said_once(
    server: KubernetesServer, train: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    def act(server: KubernetesServer, name: str) -> None:
        unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/5 nodes"}
        server.add_pod(name, 1, phase="Pending", conditions=[unschedulable])
        seen = len(server.used)
        server.wait_until(lambda: len(server.used) > seen + 6)
        succeed(server, name)

    server.act = act
    caplog.set_level(logging.INFO, logger="twhin")
    train()
    assert caplog.text.count("node 1: Unschedulable: 0/5 nodes") == 1


def queued(needs: Resources) -> Resources:
    """The same in a queue of Kueue, and with an annotation."""
    labels = {"kueue.x-k8s.io/queue-name": "team-a"}
    return needs.model_copy(update={"pod": pod_section.Pod(labels=labels, annotations={"example.com/owner": "ada"})})


def test_a_job_without_quota_is_said_to_wait_and_its_readers_are_not_started_before_it(
    server: KubernetesServer, train: Callable[..., None], needs: Resources, root: str,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(quota, "REMIND_S", 0.1)

    def act(server: KubernetesServer, name: str) -> None:
        server.wait_until(lambda: caplog.text.count("waiting for quota") > 2)
        assert not server.owned
        assert ("list", "", "pods") not in server.used
        server.admit(name)
        server.wait_until(lambda: len(server.owned) == 2)
        succeed(server, name)

    server.act = act
    caplog.set_level(logging.INFO, logger="twhin")
    train(needs=queued(needs), readers=resources.Readers(**READERS))
    said = [line for line in caplog.messages if "quota" in line]
    assert re.fullmatch(
        r"train: waiting for quota in the Kueue queue team-a since 2026-01-01T00:01:00Z, \d+ min", said[0]
    )
    assert said[-1] == "train: the TrainJob has its quota"
    annotations = server.train_jobs[name_of(root)]["metadata"]["annotations"]
    assert annotations["example.com/owner"] == "ada"
    assert annotations["twhin/run"] == "run-1"


def test_a_job_that_loses_its_quota_waits_again_and_goes_on(
    server: KubernetesServer, train: Callable[..., None], needs: Resources, caplog: pytest.LogCaptureFixture
) -> None:
    def act(server: KubernetesServer, name: str) -> None:
        server.admit(name)
        for node in start_nodes(server, name):
            server.say(node, "step 0")
        server.wait_until(lambda: ("get", "", "pods/log") in server.used)
        server.suspend(server.train_jobs[name])  # Kueue gives its quota to a more urgent one
        with server.lock:
            server.pods.clear()
            server.lock.notify_all()
        server.wait_until(lambda: "waiting for quota" in caplog.text)
        server.admit(name)
        succeed(server, name)

    server.act = act
    caplog.set_level(logging.INFO, logger="twhin")
    train(needs=queued(needs))
    assert created(server) == 1


def test_a_suspended_job_that_has_failed_is_not_waited_for(
    server: KubernetesServer, train: Callable[..., None], needs: Resources
) -> None:
    server.act = lambda server, name: server.end_job(name, "Failed", "deactivated")
    with pytest.raises(TrainJobFailed, match="failed: deactivated"):
        train(needs=queued(needs))


def test_a_job_that_someone_suspended_is_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    job = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"suspend": True}}
    assert quota.describe(job).startswith("the TrainJob is suspended since 2026-01-01T00:00:00Z, ")
    assert quota.describe({"metadata": {}, "spec": {"suspend": True}}) == "the TrainJob is suspended"
    assert not quota.Wait().is_on({"metadata": {}, "spec": {"suspend": False}})
    assert not quota.Wait().is_on({"metadata": {}, "spec": {}})


def test_the_task_keeps_a_heartbeat_while_it_follows(
    server: KubernetesServer, train: Callable[..., None], root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    file, seen = Path(root, ".leases/follower"), set[str]()

    def act(server: KubernetesServer, name: str) -> None:
        for _ in range(500):
            seen.add(file.read_text() if file.exists() else "")
            time.sleep(0.01)
            if len(seen) > 3:
                break
        succeed(server, name)

    server.act = act
    train()
    assert len(seen) > 3
    last = file.read_text()
    time.sleep(0.1)
    assert file.read_text() == last  # with the task


@pytest.mark.parametrize("right", sorted(granted() - {("update", "trainer.kubeflow.org", "trainjobs/finalizers")}))
def test_a_missing_right_is_named_with_the_role_that_grants_it(
    server: KubernetesServer, train: Callable[..., None], right: tuple[str, str, str]
) -> None:
    server.act = succeed
    server.rights.discard(right)
    verb, _, resource = right
    with pytest.raises(UserError, match=f'cannot {verb} resource "{resource}".*deploy/role.yaml'):
        train(readers=resources.Readers(**READERS))


def test_a_cluster_without_trainer_is_told_from_one_that_refuses(
    server: KubernetesServer, train: Callable[..., None]
) -> None:
    server.has_trainer = False
    with pytest.raises(UserError, match=r"has no TrainJob.*install Kubeflow Trainer"):
        train()


def test_an_unreachable_host_is_one_line(
    kubeconfig: Path, train: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FIRST_TIMEOUT_S", 0)
    url = free_url()
    write_kubeconfig(kubeconfig, url)
    with pytest.raises(Unreachable, match=f"{url} cannot be reached: .*refused") as caught:
        train()
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_a_cluster_that_cannot_answer_now_is_asked_again(server: KubernetesServer, train: Callable[..., None]) -> None:
    server.act, server.failures = succeed, [503, 429]
    train()
    assert created(server) == 1


def test_without_a_cluster_there_is_one_line(kubeconfig: Path, train: Callable[..., None]) -> None:
    with pytest.raises(UserError, match="no Kubernetes cluster is known here"):
        train()


def test_machines_that_share_no_root_are_refused_before_any_is_asked_for(
    server: KubernetesServer, train: Callable[..., None], needs: Resources
) -> None:
    for wrong in (needs.model_copy(update={"volume": None}), needs.model_copy(update={"volume": _elsewhere()})):
        with pytest.raises(UserError, match="do not share this run root"):
            train(needs=wrong)
    assert not server.used


def test_the_cluster_is_asked_beforehand_and_nothing_is_created(
    server: KubernetesServer, needs: Resources, root: str
) -> None:
    train = needs.train.model_copy(update={"readers": resources.Readers(**READERS)})
    manifests = as_kfp_gives(trainjob.manifests(needs.model_copy(update={"train": train})))
    check_cluster.python_func(run_root=root, manifests=manifests, run="run-1")
    assert {verb for verb, *_ in server.used} == {"create"}
    assert len(server.used) == 3
    assert not server.train_jobs
    assert not server.owned
    server.rights.remove(("create", "batch", "jobs"))
    with pytest.raises(UserError, match=r"jobs.*bind the Role of deploy/role.yaml"):
        train_job.check(root, manifests)
    server.has_trainer = False
    with pytest.raises(UserError, match=r"has no TrainJob.*install Kubeflow Trainer"):
        train_job.check(root, manifests)
    with pytest.raises(UserError, match="do not share this run root"):
        train_job.check("/elsewhere/run", manifests)


def _elsewhere() -> resources.Volume:
    return resources.Volume(claim="runs", mount="/elsewhere")


@pytest.mark.parametrize(
    ("root", "begins"),
    [("gs://bucket/runs/My Run_1/", "twhin-my-run-1-"), ("/", "twhin-"), ("gs://b/" + "x" * 300, f"twhin-{'x' * 20}-")],
)
def test_the_name_is_one_that_kubernetes_takes(root: str, begins: str) -> None:
    name = name_of(root)
    assert name.startswith(begins)
    assert len(f"{name}-readers-1000") <= 63
    assert name_of(root + "1") != name
