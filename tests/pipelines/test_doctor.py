"""What `twhin doctor` finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.command_line import twhin
from tests.object_store import STORES, files_at, reach, serve_bucket
from twhin.pipelines import doctor
from twhin_core import libraries


def test_this_machine_passed(tmp_path: Path) -> None:
    ran = twhin("doctor", tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "FAILED" not in ran.stdout
    assert "looked up 2 rows" in ran.stdout
    assert ["ok", "torch", torch.__version__] in [line.split() for line in ran.stdout.splitlines()]
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_amiss(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = twhin("doctor", tmp_path / "file")
    assert ran.returncode == 1
    (line,) = [line for line in ran.stdout.splitlines() if "FAILED" in line]
    assert str(tmp_path / "file") in line
    assert "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.parametrize("store", STORES)
def test_a_store_is_tried_out(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_bucket(store=store) as server:
        url = f"{reach(server, monkeypatch)}/runs"
        *_, tried = doctor.examine(url)
        assert (tried.name, tried.passed, tried.found) == (url, True, "can be written, read and deleted from")
        assert files_at(server).find("bucket/runs") == []  # not of the bucket, which obstore takes for a file


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_conditions_is_amiss(condition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_bucket(store="s3") as server:
        server.dropped_headers = (condition.lower(),)
        *_, tried = doctor.examine(f"{reach(server, monkeypatch)}/runs")
    assert not tried.passed
    assert f"the store ignores {condition}," in tried.found


def test_libraries_that_do_not_load_are_amiss(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise OSError("cannot load\nfbgemm_gpu_py.so") from OSError("libnvidia-ml.so.1: no such file")

    monkeypatch.setattr(libraries, "_look_up", fail)
    (tables,) = [finding for finding in doctor.examine(None) if finding.name == "tables"]
    assert not tables.passed
    assert "cannot load fbgemm_gpu_py.so: libnvidia-ml.so.1: no such file" in tables.found
    assert libraries.INSTALL["cpu"] in tables.found


@pytest.mark.parametrize(("gpus", "passed"), [(1, True), (8, False)])
def test_little_shared_memory_is_amiss_with_several_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: int, passed: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(doctor, "ENOUGH_SHARED_MEMORY", 1 << 60)
    (memory,) = [finding for finding in doctor.examine(None) if finding.name == "shared memory"]
    assert memory.passed == passed
    assert ("too small for several GPUs" in memory.found) != passed
