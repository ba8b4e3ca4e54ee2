"""A run on an object store gives the same answers as on a local disk, though a tenth of the requests go wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any, get_args

import pyarrow as pa
import pytest

from tests.export.exporting import changed
from tests.fault_proxy import FaultProxy
from tests.object_store import GS_FIRST, files_at, reach, serve_bucket
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings, Neighbor
from twhin_core.embeddings.embeddings import EdgeScore
from twhin_core.errors import UserError
from twhin_core.inductive.embed import Method
from twhin_core.stages.export import export

Answers = tuple[list[Neighbor] | EdgeScore | list[str] | list[float] | list[dict[str, Any]], ...]
EDGES = pa.table({"lhs": ["new", "u4", "new"], "relation": ["fav", "follow", "fav"], "rhs": ["t3", "new", "t9"]})


@pytest.fixture(params=GS_FIRST)
def server(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1, store=request.param) as proxy:
        yield proxy


def answers(root: str) -> Answers:
    embeddings = Embeddings.load(root)
    users = embeddings["user"]
    return (
        users.neighbors("u3", k=39),
        users.neighbors("u3", "fav", k=30),
        users.neighbors("u3", "fav", k=30, index=True),
        embeddings.score("fav", "u3", "t4"),
        list(users),
        users["u17"].tolist(),
        *(embeddings.embed("user", EDGES, method).to_pylist() for method in get_args(Method)),
    )


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoint kept", "checkpoint gone"])
def test_the_answers_are_the_same(
    trained: tuple[Config, str], server: FaultProxy, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    config, root = trained
    export(changed(config, "export", formats=["parquet", "faiss"], rows_per_file=7), root)
    if not kept:
        shutil.rmtree(f"{root}/checkpoints")
    bucket = reach(server, monkeypatch)
    files_at(server).put(f"{root}/", "bucket/run/", recursive=True)
    assert answers(f"{bucket}/run") == answers(root)
    assert server.faults.total() > 0
    with pytest.raises(UserError, match=rf"{bucket}/nothing: there is no run here"):
        Embeddings.load(f"{bucket}/nothing")
    with pytest.raises(UserError, match=r"near it: 'u33'"):
        Embeddings.load(f"{bucket}/run")["user"]["u33x"]
