"""The nodes of a TrainJob: their pods, how they ended, and their logs."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from twhin.components.train.cluster import Cluster
from twhin_core.errors import in_one_line

LABELS = "jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name=node"
"""The labels that Kubeflow Trainer's JobSet gives the trainers' pods."""
INDEX = "batch.kubernetes.io/job-completion-index"
CONTAINER = "node"
STARTS = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class Node:
    """A node, by its pod."""

    index: int
    pod: str
    phase: str
    exit_code: int | None
    """None while it runs, and if its machine was lost."""
    ended_at: float
    """Seconds since 1970; infinity while it runs."""
    end: str
    """How it ended, in words."""
    waits_for: str
    """What keeps it from starting, such as a missing machine or image; otherwise empty."""

    @property
    def has_started(self) -> bool:
        return self.phase in ("Running", "Succeeded", "Failed")

    @property
    def has_failed(self) -> bool:
        return self.phase == "Failed" or bool(self.exit_code)


def find_nodes(cluster: Cluster, name: str) -> list[Node]:
    """The nodes of the TrainJob, oldest pod first. A node whose pod was replaced is listed twice."""
    return [_node(pod) for pod in cluster.pods(LABELS.format(name=name))]


def _node(pod: Any) -> Node:
    statuses = [entry for entry in pod.status.container_statuses or [] if entry.name == CONTAINER]
    state = statuses[0].state if statuses else None
    ended = state.terminated if state is not None else None
    end = pod.status.message or pod.status.reason or "ended"
    if ended is not None:
        end = f"ended with code {ended.exit_code}" + (f", {ended.reason}" if ended.reason != "Error" else "")
    return Node(
        index=int((pod.metadata.annotations or {}).get(INDEX, 0)),
        pod=pod.metadata.name,
        phase=pod.status.phase,
        exit_code=ended.exit_code if ended is not None else None,
        ended_at=ended.finished_at.timestamp() if ended is not None and ended.finished_at else float("inf"),
        end=in_one_line(end),
        waits_for=_waits_for(pod, state) if pod.status.phase == "Pending" else "",
    )


def _waits_for(pod: Any, state: Any) -> str:
    """A missing machine or image."""
    if state is not None and state.waiting is not None and state.waiting.reason not in STARTS:
        return in_one_line(f"{state.waiting.reason}: {state.waiting.message or ''}")
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return in_one_line(f"{condition.reason}: {condition.message or ''}")
    return ""


class NodeLog:
    """Copies a node's log to stderr, each line once, even if the connection breaks."""

    MARGIN = 60
    """Seconds of log that are read again after a break, because clocks differ."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pod, self._last, self._heard = "", "", 0.0

    def copy(self, node: Node, follow: bool) -> None:
        """Copies new lines. With `follow`, keeps copying until the node ends or the log is silent for a while."""
        if node.pod != self._pod:
            self._pod, self._last = node.pod, ""
        since = {"since_seconds": int(time.monotonic() - self._heard) + self.MARGIN} if self._last else {}
        for line in self._cluster.log(node.pod, CONTAINER, follow=follow, timestamps=True, **since):
            stamp, _, text = line.partition(" ")
            if stamp > self._last:  # timestamps have a fixed width, so they sort as text
                self._last, self._heard = stamp, time.monotonic()
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
