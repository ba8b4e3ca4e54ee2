"""Training against a Google Cloud Storage server on loopback: the reference's own configuration, and two ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.object_store import STORES, environment, reach, serve_bucket
from tests.ranks import run_ranks
from tests.training.same_result import assert_same_result
from twhin_core.config import Config
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.stores.gcs import GCSFileSystem

BUCKET = "follows_tml_01"
FOLDER = f"{BUCKET}/tweet_eng/2023-01-23/large/edges"
EDGES = 10_500  # train takes 9,990, validation the 10 after them, and some are left over


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server whose bucket holds edges in three files."""
    with serve_bucket(BUCKET) as proxy:
        files = GCSFileSystem(token="anon", endpoint_url=proxy.url)
        rng = np.random.default_rng(0)
        for part, rows in enumerate(np.array_split(np.arange(EDGES), 3)):
            table = pa.table(
                {
                    "lhs": rng.integers(424_241, size=len(rows)),
                    "rel": rng.integers(4, size=len(rows)).astype(np.int32),
                    "rhs": rng.integers(72_543, size=len(rows)),
                }
            )
            with files.open(f"{FOLDER}/part-{part}.parquet", "wb") as file:
                pq.write_table(table, file)
        yield proxy.url


@pytest.mark.parametrize("root", ["local", f"gs://{BUCKET}/run"])
def test_it_trains_and_restarts_from_its_checkpoint(server: str, root: str, tmp_path: Path) -> None:
    # Its save_dir is a place that all runs on a machine share, so the test names another.
    where = ["--run-root", root] if root.startswith("gs") else ["--set", f"training.save_dir={tmp_path}/model"]
    first = twhin("train", "configs/local.yaml", *where, STORAGE_EMULATOR_HOST=server)
    assert first.returncode == 0, first.stderr
    # 9,990 edges in batches of 500 are 20 steps, five times over.
    assert "finished after step 100, epoch 5" in first.stderr
    again = twhin("train", "configs/local.yaml", *where, STORAGE_EMULATOR_HOST=server)
    assert again.returncode == 0, again.stderr
    assert "resumes from the checkpoint of step 100" in again.stderr

    files = GCSFileSystem(token="anon", endpoint_url=server, use_listings_cache=False)
    if root.startswith("gs"):
        assert len(files.glob(f"{root}/training/events*")) == 1, "TensorBoard's, of the one run that had steps to take"
    log = f"{root}/training/metrics.jsonl"
    text = files.cat(log).decode() if root.startswith("gs") else (tmp_path / "model/training/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(10, 101, 10))
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] == pytest.approx(2 * np.log(2), abs=0.01), "untrained, every score is near 0"
    assert [line["step"] for line in lines if "validation_loss" in line] == [100]


def test_a_glob_that_matches_nothing(server: str, tmp_path: Path) -> None:
    pattern = f"gs://{BUCKET}/nothing/*"
    ran = twhin(
        "train", "configs/local.yaml", "--run-root", tmp_path / "run", "--set", f"train_data.data_root={pattern}",
        STORAGE_EMULATOR_HOST=server,
    )  # fmt: skip
    assert_refused(ran, pattern, "no file matches")


def train_there(config: Config, root: str, where: dict[str, str]) -> None:
    os.environ.update(where)
    train(config, root)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_two_ranks_write_checkpoints_through_faults(store: str, small_config: SmallConfig, tmp_path: Path) -> None:
    config, local = small_config(), str(tmp_path / "run")
    prepare(config, local)
    run_ranks(2, train, config, local)
    with serve_bucket(faults=0.1, store=store) as proxy, pytest.MonkeyPatch.context() as here:
        remote = f"{reach(proxy, here)}/run"
        prepare(config, remote)
        run_ranks(2, train_there, config, remote, environment(proxy))
        assert proxy.faults.total() > 10
        assert_same_result(local, remote)
