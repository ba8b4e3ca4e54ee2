"""`twhin refresh` over days, and killed anywhere: one version is published at any moment, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.command_line import COMMAND, ROOT, assert_refused, twhin
from tests.conftest import SmallConfig
from tests.pipelines.test_killed_run import members
from tests.series.test_plan import Days
from twhin_core.graph.manifest import find_manifest
from twhin_core.published import find_root, list_ids, read_current

KILLS = 8


@pytest.fixture
def days(tmp_path: Path, small_config: SmallConfig) -> Days:
    relations = [{"name": "fav", "lhs": "user", "rhs": "tweet"}]
    return Days(tmp_path, small_config(model={"relations": relations}, training={"num_epochs": 8}))


def published(series: str) -> str:
    current = read_current(series)
    assert current is not None
    assert find_root(series) == f"{series}/versions/{current.version}"  # its manifests are whole
    return current.version


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_days(days: Days, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(days.text)
    refresh = ("refresh", path, days.series, "--keep", "2")
    days.arrive(1)
    assert twhin(*refresh).returncode == 0
    again = twhin(*refresh, "--json")
    assert "version 1 has taken all files" in again.stderr
    assert [row["version"] for row in json.loads(again.stdout)["versions"]] == ["1"]
    days.arrive(2)
    missed = twhin(*refresh, "--set", "evaluation.gates={drift.user.neighbors@10: {min: 1.1}}")
    assert_refused(missed, "version 2 was not published: drift.user.neighbors@10", exit_code=3)
    assert published(days.series) == "1"
    days.arrive(3)
    assert twhin(*refresh).returncode == 0
    assert published(days.series) == "3"
    states = {
        row["version"]: row["state"] for row in json.loads(twhin("versions", days.series, "--json").stdout)["versions"]
    }
    assert {version: state.split(" ")[0] for version, state in states.items()} == {
        "1": "removed", "2": "not", "3": "published",
    }  # fmt: skip
    manifest = json.loads(Path(days.series, "versions/3/graph/manifest.json").read_text())
    assert sorted(Path(entry["path"]).name for entry in manifest["raw_files"]) == ["day-2.parquet", "day-3.parquet"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_refresh_that_is_killed_publishes_once_and_ends_as_an_undisturbed_one(days: Days, tmp_path: Path) -> None:
    path, undisturbed, disturbed = tmp_path / "config.yaml", tmp_path / "series", tmp_path / "disturbed"
    path.write_text(days.text)
    days.arrive(1)
    started = time.monotonic()
    assert twhin("refresh", path, undisturbed).returncode == 0
    whole = time.monotonic() - started  # on this machine, as busy as it is
    shutil.copytree(undisturbed, disturbed)
    days.arrive(2)
    rng = random.Random(0)
    for number in range(KILLS):
        process = subprocess.Popen(
            [*COMMAND, "refresh", str(path), str(disturbed)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep((number + rng.uniform(0.1, 1)) / KILLS * whole)  # in each part of a run
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 10
        while members(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert published(str(disturbed)) in ("1", "2")
    for series in (undisturbed, disturbed):
        ran = twhin("refresh", path, series)
        assert ran.returncode == 0, ran.stderr
        assert published(str(series)) == "2"
    current = read_current(str(disturbed))
    assert current is not None
    assert [entry.version for entry in current.history] == ["1", "2"]
    assert list_ids(str(disturbed)) == ["1", "2"]
    graphs = [find_manifest(f"{series}/versions/2") for series in (disturbed, undisturbed)]
    assert graphs[0].splits == graphs[1].splits
    assert {Path(path).name for path in graphs[0].taken} == {"day-1.parquet", "day-2.parquet"}
    for table in ("user", "tweet"):
        found, expected = (
            pq.read_table(series / "versions/2/embeddings" / table) for series in (disturbed, undisturbed)
        )
        assert found.equals(expected)
        assert found.num_rows > 0
