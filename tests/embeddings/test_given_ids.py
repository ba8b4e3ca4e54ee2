"""Ids that were integers or UUIDs in the raw files are found as such, and what can be no id is refused."""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from twhin_core.embeddings import Embeddings
from twhin_core.errors import NotFound, UserError
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

drawn = random.Random(4)
NUMBERS = [0, 7, -3, 2**31, 2**63 - 1, -(2**63), *(drawn.randrange(-(2**63), 2**63) for _ in range(20))]
UUIDS = [uuid.UUID(int=drawn.getrandbits(128)) for _ in range(20)]


@pytest.fixture(scope="module")
def once() -> dict[str, Embeddings]:
    return {}


@pytest.fixture
def embeddings(once: dict[str, Embeddings], small_config: SmallConfig, tmp_path: Path) -> Embeddings:
    """Users with integers for ids, tweets with UUIDs."""
    if not once:
        edges = [(drawn.choice(NUMBERS), "fav", str(drawn.choice(UUIDS))) for _ in range(300)]
        edges += [(number, "fav", str(drawn.choice(UUIDS))) for number in NUMBERS]
        edges += [(drawn.choice(NUMBERS), "fav", str(name)) for name in UUIDS]
        lhs, relation, rhs = zip(*edges, strict=True)
        pq.write_table(pa.table({"lhs": lhs, "relation": relation, "rhs": rhs}), tmp_path / "raw.parquet")
        config = small_config(
            model={"relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}]},
            prepare={"labels": [{"table": "user", "path": str(tmp_path / "names.csv"), "id": "id", "label": "label"}]},
        )
        rows = "".join(f"{number},number {number}\n" for number in NUMBERS)
        (tmp_path / "names.csv").write_text("id,label\n" + rows)
        for stage in (prepare, train):
            stage(config, str(tmp_path / "run"))
        once["run"] = Embeddings.load(str(tmp_path / "run"))
    return once["run"]


def test_integers_and_uuids_are_found(embeddings: Embeddings) -> None:
    users, tweets = embeddings["user"], embeddings["tweet"]
    for number in NUMBERS:
        for given in (number, np.int64(number)):
            assert given in users
            np.testing.assert_array_equal(users[given], users[str(number)])
    for name in UUIDS:
        assert name in tweets
        np.testing.assert_array_equal(tweets[name], tweets[str(name)])
    assert users.neighbors(7, k=3) == users.neighbors("7", k=3)
    assert embeddings.score("fav", np.int64(-3), UUIDS[0]) == embeddings.score("fav", "-3", str(UUIDS[0]))
    assert embeddings.labels("user", [7, -3]) == {"7": "number 7", "-3": "number -3"}


def test_others_are_not(embeddings: Embeddings) -> None:
    users = embeddings["user"]
    for unknown in (1, np.int32(5), 2**70, uuid.UUID(int=1), "07", "7.0", "+7", " 7"):
        assert unknown not in users
        with pytest.raises(NotFound, match="user: no node has the id"):
            users[unknown]


@pytest.mark.parametrize(
    "given", [7.0, np.float64(7), True, None, b"7", ("7",), ["7"], np.array([7]), 7j, np.bool_(True)]
)
def test_what_can_be_no_id_is_refused(embeddings: Embeddings, given: Any) -> None:
    users = embeddings["user"]
    for ask in (
        lambda: given in users,
        lambda: users[given],
        lambda: users.neighbors(given),
        lambda: embeddings.score("fav", given, UUIDS[0]),
        lambda: embeddings.labels("user", [given]),
    ):
        with pytest.raises(UserError, match=f"is not an id, but a {type(given).__name__}: give a string") as refused:
            ask()
        assert "\n" not in str(refused.value)
