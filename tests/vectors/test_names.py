"""The ids of a table that prepare did not make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.evaluation.graphs import model_config
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.vectors.names import name_rows, open_ids


def config_with(vocab: Path | None) -> Config:
    tree = model_config({"user": 10}, [("follow", "user", "user")], dim=4).model_dump()
    tree["model"]["embeddings"]["tables"][0]["vocab"] = None if vocab is None else str(vocab)
    return Config.model_validate(tree)


def names(vocab: Path | None, batch_rows: int = 3) -> list[tuple[int, str]]:
    batches = list(open_ids(config_with(vocab), "nowhere", "user", rows=10).batches(batch_rows))
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)
    return [(row["index"], row["id"]) for batch in batches for row in batch.to_pylist()]


def write(folder: Path, *files: dict[str, list]) -> Path:
    folder.mkdir()
    for number, columns in enumerate(files):
        pq.write_table(pa.table(columns), folder / f"part-{number}.parquet")
    return folder


@pytest.mark.parametrize("batch_rows", [1, 3, 5, 100])
def test_without_a_vocabulary_rows_are_named_by_their_index(batch_rows: int) -> None:
    assert names(None, batch_rows) == [(row, str(row)) for row in range(10)]


@pytest.mark.parametrize("batch_rows", [1, 3, 5, 100])
def test_a_vocabulary_in_any_order_and_with_gaps(tmp_path: Path, batch_rows: int) -> None:
    vocab = write(tmp_path / "v", {"index": [7, 2, 9], "id": ["g", "b", "i"]}, {"index": [0, 1], "id": ["zero", "a"]})
    assert names(vocab, batch_rows) == [(0, "zero"), (1, "a"), (2, "b"), (7, "g"), (9, "i")]


def test_integer_ids_and_narrow_indices(tmp_path: Path) -> None:
    vocab = write(tmp_path / "v", {"index": pa.array([1, 0], pa.int32()), "id": [2**40, 5], "degree": [1, 1]})
    assert names(vocab) == [(0, "5"), (1, str(2**40))]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"index": [0, 10], "id": ["a", "b"]}, "index 10 is outside the table's 10 rows"),
        ({"index": [3, 1, 3], "id": ["a", "b", "c"]}, "index 3 is negative or repeated"),
        ({"index": [-1, 1], "id": ["a", "b"]}, "index -1 is negative or repeated"),
        ({"index": [0, 1, 2, 3, 4], "id": ["a", "b", "c", None, "e"]}, "part-0.parquet: row 3: id is null"),
        ({"index": [0, 1]}, "part-0.parquet: has no column id; it has index"),
        ({"index": ["0", "1"], "id": ["a", "b"]}, "part-0.parquet: column index is string, not integers"),
    ],
)
def test_a_broken_vocabulary_is_a_user_error(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    with pytest.raises(UserError) as error:
        names(write(tmp_path / "v", columns))
    assert message in str(error.value)


def test_a_truncated_vocabulary_is_a_user_error(tmp_path: Path) -> None:
    file = write(tmp_path / "v", {"index": list(range(9)), "id": list("abcdefghi")}) / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"part-0\.parquet: not a complete Parquet file"):
        names(tmp_path / "v")
    with pytest.raises(UserError, match="nothing: no file matches"):
        names(tmp_path / "nothing")


def test_a_vocabulary_next_to_prepares_is_refused(small_config: SmallConfig) -> None:
    sgd = {"sgd": {"lr": 0.1}}
    tables = [
        {"name": "user", "embedding_dim": 4, "optimizer": sgd},
        {"name": "tweet", "embedding_dim": 4, "optimizer": sgd, "vocab": "elsewhere"},
    ]
    with pytest.raises(UserError, match=r"model\.embeddings\.tables\.1\.vocab: has no effect with a prepare section"):
        small_config(model={"embeddings": {"tables": tables}})


def test_rows_are_named_by_the_vocabulary(tmp_path: Path) -> None:
    vocab = write(tmp_path / "v", {"index": [7, 2, 9], "id": ["anna", "bob", "bo"]}, {"index": [0], "id": ["carla"]})
    config = config_with(vocab)
    assert name_rows(open_ids(config, "nowhere", "user", 10), "user", np.array([9, 0, 9])) == ["bo", "carla", "bo"]
    for row in (1, 8):
        with pytest.raises(UserError, match=f"user: its vocabulary has no id for row {row}$"):
            name_rows(open_ids(config, "nowhere", "user", 10), "user", np.array([row]))
    assert [open_ids(config, "nowhere", "user", 10).find(name) for name in ("carla", "bob", "bo", "x")] == [
        0,
        1,
        3,
        None,
    ]


def test_rows_without_a_vocabulary_are_found_by_their_number() -> None:
    config = config_with(None)
    assert name_rows(open_ids(config, "nowhere", "user", 10), "user", np.array([9, 0])) == ["9", "0"]
    ids = open_ids(config, "nowhere", "user", 10)
    assert [ids.find(name) for name in ("0", "9", "10", "-1", "07", "x", "²")] == [0, 9, None, None, None, None, None]
