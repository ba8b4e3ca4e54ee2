"""A TrainJob whose nodes are real: its command and its variables start them, on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.components.test_train_job import start_task
from tests.conftest import SmallConfig
from tests.kubernetes_server import KubernetesServer, Pod
from tests.nodes import SECONDS, Node, kill, kubeflow_trainer, two_nodes
from twhin.components.train.train_job import TrainJobFailed, name_of
from twhin.pipelines.resources import Resources
from twhin_core.checkpoints import checkpoint
from twhin_core.stages.prepare import prepare


def start_nodes(server: KubernetesServer, name: str, lose_one_at: Callable[[], bool]) -> None:
    """What a cluster does with a TrainJob of two nodes; the second is lost as soon as `lose_one_at()`."""
    trainer = server.train_jobs[name]["spec"]["trainer"]
    program, *arguments = trainer["command"]
    assert (program, trainer["numNodes"], trainer["numProcPerNode"]) == ("twhin", 2, 1)
    ended: list[Pod] = []
    given = {entry["name"]: entry["value"] for entry in trainer["env"]}

    def pass_on(node: Node, pod: Pod) -> None:
        assert node.stderr is not None
        for line in node.stderr:
            server.say(pod, line.rstrip())
        code = node.wait()
        ended.append(pod)  # each in a second of its own, though they follow each other faster than in a cluster
        server.end_pod(pod, code if code >= 0 else 128 - code, second=len(ended))

    with two_nodes(lambda index, port: given | kubeflow_trainer(index, port), *arguments) as nodes:
        attempt = str(len(server.pods))
        pods = [server.add_pod(name, index, attempt) for index in range(2)]
        logs = [threading.Thread(target=pass_on, args=pair) for pair in zip(nodes, pods, strict=True)]
        for log in logs:
            log.start()
        while any(log.is_alive() for log in logs):
            if lose_one_at():
                kill(nodes[1])
            logs[0].join(0.01)
        server.end_job(name, "Failed" if any(node.returncode for node in nodes) else "Complete")


@pytest.mark.timeout(2 * SECONDS)
def test_a_node_is_lost_and_the_retry_trains_to_the_end(
    server: KubernetesServer, train: Callable[..., None], small_config: SmallConfig, root: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config: Any = small_config(training={"num_epochs": 40, "checkpoint_every_n": 10})
    prepare(config, root)
    server.act = lambda server, name: start_nodes(server, name, lambda: bool(checkpoint.complete(root)))
    with pytest.raises(TrainJobFailed, match=r"node 1 .*: ended with code 137"):
        train(config, accelerator=None)
    interrupted = checkpoint.newest(root)
    assert interrupted is not None
    capfd.readouterr()
    server.act = lambda server, name: start_nodes(server, name, lambda: False)
    train(config, accelerator=None)
    said = capfd.readouterr().err
    assert said.count("launch: node 1 of 2, ranks here: 1") == 1
    assert "train: finished after step" in said
    end = checkpoint.newest(root)
    assert end is not None
    assert interrupted.step < end.step
    assert Path(root, "training/finished.json").exists()
    assert server.train_jobs[name_of(root)]["metadata"]["deletionTimestamp"]


@pytest.mark.timeout(2 * SECONDS)
def test_nodes_whose_task_is_killed_write_a_checkpoint_and_end(
    server: KubernetesServer, small_config: SmallConfig, needs: Resources, root: str, tmp_path: Path
) -> None:
    config: Any = small_config(training={"num_epochs": 100_000, "checkpoint_every_n": 10})
    prepare(config, root)
    machine = needs.train.model_copy(update={"accelerator": None, "abandoned_after": "5s"})
    server.act = lambda server, name: start_nodes(server, name, lambda: False)
    task = start_task(config, root, needs.model_copy(update={"train": machine}), tmp_path)
    try:
        _wait_until(lambda: bool(checkpoint.complete(root)))  # they train
    finally:
        task.kill()
        task.communicate()
    at_kill = checkpoint.newest(root)
    assert at_kill is not None
    _wait_until(lambda: "status" in server.train_jobs[name_of(root)])
    assert server.train_jobs[name_of(root)]["status"]["conditions"][0]["type"] == "Failed"
    ends = [pod.status["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in server.pods.values()]
    assert ends == [75, 75]  # as after a preemption: a retry resumes
    said = "\n".join(line for pod in server.pods.values() for line in pod.lines)
    assert "no heartbeat for 5 s" in said
    end = checkpoint.newest(root)
    assert end is not None
    assert end.step > at_kill.step


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
