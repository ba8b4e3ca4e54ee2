"""Who is a reader, and where readers are, by what each platform sets. `tests/pipelines/test_readers.py` starts some."""

from __future__ import annotations

import json

import pytest

from twhin_core.errors import UserError
from twhin_core.stages.readers import find_readers, is_reader


def vertex(pool: str, readers: int = 1) -> dict[str, str]:
    cluster = {"workerpool0": ["job-workerpool0-0:2222"], "workerpool1": ["job-workerpool1-0:2222"]}
    if readers:
        cluster["workerpool2"] = [f"job-workerpool2-{number}:2222" for number in range(readers)]
    return {"CLUSTER_SPEC": json.dumps({"cluster": cluster, "task": {"type": pool, "index": 0}})}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"TWHIN_TASK_TYPE": "chief"}, False),
        ({"TWHIN_TASK_TYPE": "reader"}, True),
        (vertex("workerpool0"), False),
        (vertex("workerpool1"), False),
        (vertex("workerpool2"), True),
        (vertex("workerpool0") | {"TWHIN_TASK_TYPE": "reader"}, True),
    ],
)
def test_the_environment_says_who_is_a_reader(environment: dict[str, str], expected: bool) -> None:
    assert is_reader(environment) is expected


def test_an_unknown_role_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="TWHIN_TASK_TYPE: 'worker' must be chief or reader"):
        is_reader({"TWHIN_TASK_TYPE": "worker"})
    with pytest.raises(UserError, match="CLUSTER_SPEC: task: Field required"):
        is_reader({"CLUSTER_SPEC": '{"cluster": {}}'})


def test_readers_are_those_that_are_named_or_vertex_third_pool() -> None:
    listed = {"TWHIN_READERS": "c:3"}
    assert find_readers(None, {}) == find_readers("", {}) == []
    assert find_readers(None, vertex("workerpool0")) == ["job-workerpool2-0:2222"]
    assert find_readers(None, vertex("workerpool0", readers=0)) == []
    assert find_readers(None, vertex("workerpool0") | listed) == ["c:3"]
    assert find_readers("a:1,b:2", vertex("workerpool0") | listed) == ["a:1", "b:2"]
