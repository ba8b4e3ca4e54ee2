"""What is removed, and what never is."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_line import ROOT
from tests.preloaded import CONTEXT
from twhin_core import lease, storage
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.series import reading
from twhin_core.series.publish import publish, rollback
from twhin_core.series.retention import keep_newest
from twhin_core.series.versions import list_versions


def files(series: str, version: str) -> list[str]:
    root = Path(series, "versions", version)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_the_oldest_are_removed_and_their_figures_stay(series: str) -> None:
    with pytest.raises(UserError, match="no version of this series is published; nothing was removed"):
        keep_newest(series, 1)
    for version in ("1", "2", "10"):
        publish(series, version)
    before = {version.id: version for version in list_versions(series)}
    assert keep_newest(series, 2) == ["1"]
    assert files(series, "1") == ["removed.json"]
    after = {version.id: version for version in list_versions(series)}
    assert (after["2"], after["10"]) == (before["2"], before["10"])
    assert after["1"].state.startswith("removed ")
    assert dataclasses.replace(after["1"], state="") == dataclasses.replace(before["1"], state="")
    assert after["1"].metrics["mrr"] > 0
    assert keep_newest(series, 2) == []
    with pytest.raises(UserError, match=r"this version was removed on .*, and only its figures are kept"):
        rollback(series, "1")
    with pytest.raises(UserError, match="this version was removed"):
        Embeddings.load(f"{series}/versions/1")
    assert rollback(series).version == "2"


def test_the_published_version_and_newer_ones_stay(series: str) -> None:
    publish(series, "2")
    assert keep_newest(series, 1) == ["1"]  # 2 is published, 10 is newer
    assert [version.state.split(" ")[0] for version in list_versions(series)] == ["removed", "published", "not"]


def test_a_version_that_is_read_stays_until_it_is_not(series: str) -> None:
    publish(series, "1")
    embeddings = Embeddings.load(series)
    users = embeddings["user"]
    publish(series, "10")
    assert keep_newest(series, 1) == ["2"]
    del embeddings
    gc.collect()
    assert keep_newest(series, 1) == []  # its table is still there
    assert users["u3"].shape == (8,)
    del users
    gc.collect()
    assert keep_newest(series, 1) == ["1"]


def read_and_die(root: str) -> None:
    embeddings = Embeddings.load(root)
    assert len(embeddings["user"]) == 40
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_reader_that_was_killed_keeps_its_version_for_an_hour(series: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(series, "10")
    process = CONTEXT.Process(target=read_and_die, args=(f"{series}/versions/2",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert keep_newest(series, 1) == ["1"]
    now = time.time() + reading.LASTS
    monkeypatch.setattr(reading.time, "time", lambda: now)
    assert keep_newest(series, 1) == ["2"]


def test_a_reader_that_ends_leaves_nothing(series: str) -> None:
    publish(series, "1")
    Embeddings.load(series).close()
    code = "import sys; from twhin_core.embeddings import Embeddings; e = Embeddings.load(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, series], check=True, cwd=ROOT)
    assert not [path for path in files(series, "1") if path.startswith(".readers")]


def test_a_reader_that_may_not_write_reads_all_the_same(series: str) -> None:
    publish(series, "1")
    Path(series, "versions/1/.readers").touch()  # no folder can be there
    assert len(Embeddings.load(series)["user"]) == 40


def test_a_version_that_a_stage_works_on_stays(series: str) -> None:
    publish(series, "10")
    for stage in ("run", "export"):
        with lease.hold(f"{series}/versions/1", stage):
            assert keep_newest(series, 2) == []
    assert keep_newest(series, 2) == ["1"]


def test_a_reader_that_comes_during_the_removal_is_refused(series: str) -> None:
    publish(series, "10")
    storage.write_json(f"{series}/versions/1/removed.json", {"when": "now", "version": {}})  # as of one just beginning
    with pytest.raises(UserError, match="this version was removed"):
        Embeddings.load(f"{series}/versions/1")
    assert not [path for path in files(series, "1") if path.startswith(".readers")]
    assert keep_newest(series, 2) == ["1"]  # completes it
