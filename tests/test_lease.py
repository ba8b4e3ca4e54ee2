"""Leases: refused while the holder lives, taken over once it is dead."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.command_line import ROOT, assert_refused, twhin
from tests.conftest import SmallConfig
from tests.fault_proxy import FaultProxy
from tests.full_disk import small_files
from tests.object_store import STORES, reach, serve_bucket, settings
from tests.preloaded import CONTEXT
from twhin_core import lease, storage
from twhin_core.config import file as config_file
from twhin_core.errors import LeaseLost, StorageRefused, TwhinError, UserError
from twhin_core.run import working
from twhin_core.stores import failures


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    with serve_bucket(store=request.param) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=["local", *STORES])
def place(request: pytest.FixtureRequest) -> Iterator[FaultProxy | None]:
    """The server of a store, or None for a local disk."""
    with contextlib.nullcontext() if request.param == "local" else serve_bucket(store=request.param) as proxy:
        yield proxy


@pytest.fixture
def root(place: FaultProxy | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return str(tmp_path) if place is None else f"{reach(place, monkeypatch)}/{tmp_path.name}"


@pytest.fixture
def remote(server: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A root on the object store, with short intervals for renewal and expiry."""
    bucket = reach(server, monkeypatch)
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lease, "EXPIRY", 1.0)
    return f"{bucket}/{tmp_path.name}"


def hold_until_killed(root: str, where: dict[str, str]) -> None:
    os.environ.update(where)
    with lease.hold(root, "train"):
        time.sleep(60)


def start_holder(root: str) -> multiprocessing.context.ForkServerProcess:
    """A process that holds the lease of the train stage under `root`."""
    process = CONTEXT.Process(target=hold_until_killed, args=(root, settings()), daemon=True)
    process.start()
    deadline = time.monotonic() + 60
    while not storage.read_generation(storage.join(root, lease.FOLDER, "train"))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_a_living_process_keeps_its_stage_and_a_dead_one_does_not(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRY", 10_000)  # not needed: a process of this machine is seen to be dead
    process = start_holder(root)
    refused = pytest.raises(UserError, match=rf"another run is active here: train, process {process.pid} on .*; use")
    with refused, lease.hold(root, "train", grace=0.3):
        pass
    with lease.hold(root, "follow", grace=0):
        pass  # another stage
    with pytest.raises(UserError, match="another run is active here: train"):
        lease.check_alone(root, "prepare")
    lease.check_alone(root, "train")
    process.kill()
    process.join()
    with lease.hold(root, "train", grace=0):
        pass


def test_a_released_lease_can_be_acquired_again(root: str) -> None:
    for _ in range(3):
        with lease.hold(root, "export", grace=0):
            pass


def test_a_holder_that_is_about_to_finish_is_waited_for(root: str) -> None:
    order: list[str] = []
    held = threading.Event()

    def first() -> None:
        with lease.hold(root, "train"):
            held.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(60)
    with lease.hold(root, "train"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def of_another_machine(root: str) -> str:
    """Writes a lease whose holder runs on another machine."""
    url = storage.join(root, lease.FOLDER, "train")
    identity = {"host": "elsewhere", "pid": "1", "started": "7", "machine": "another", "owner": "x", "beat": "0"}
    storage.write_text(url, json.dumps(identity))
    return url


def test_a_remote_lease_that_is_not_renewed_is_taken_over(remote: str) -> None:
    of_another_machine(remote)
    started = time.monotonic()
    with lease.hold(remote, "train", grace=0):
        assert time.monotonic() - started > lease.EXPIRY


def test_a_remote_lease_that_is_renewed_is_respected(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRY", 10_000)
    url = of_another_machine(remote)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.1):
            text, generation = storage.read_generation(url)
            identity = json.loads(text)
            storage.write_if(url, json.dumps({**identity, "beat": f"{identity['beat']}1"}), generation)

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(UserError, match="train, process 1 on elsewhere"), lease.hold(remote, "train", grace=0):
        pass
    stop.set()
    thread.join()


def test_a_lease_is_renewed_while_held_and_empty_afterwards(remote: str) -> None:
    url = storage.join(remote, lease.FOLDER, "train")
    with lease.hold(remote, "train"):
        deadline = time.monotonic() + 60
        while int(json.loads(storage.read_text(url))["beat"]) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert storage.read_text(url) == ""


def test_a_process_that_lost_its_lease_exits(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    reasons: list[str] = []

    def end(error: TwhinError) -> None:
        reasons.append(str(error))
        ended.set()

    monkeypatch.setattr(lease, "_exit", end)
    with lease.hold(remote, "train"):
        url = of_another_machine(remote)
        assert ended.wait(60)
    assert "another run has taken over" in reasons[0]
    assert json.loads(storage.read_text(url))["host"] == "elsewhere", "another's lease is not released"


def test_a_lease_outlasts_the_retries_of_a_request() -> None:
    """So that no outage ends a run that its requests would survive."""
    assert lease.LONGEST_SILENCE * lease.EXPIRY > failures.RETRY_TIMEOUT + lease.HEARTBEAT


@pytest.mark.parametrize("seed", range(4))
def test_a_holder_that_cannot_renew_its_lease_ends_before_another_may_take_it(
    seed: int, remote: str, server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of its own may then still be retried: it must not write beside the next holder."""
    random = Random(seed)
    monkeypatch.setattr(failures, "RETRY_TIMEOUT", 20.0)
    monkeypatch.setattr(lease, "EXPIRY", random.uniform(0.6, 1.5))
    ended, write, renewed_at = threading.Event(), storage.write_if, [0.0]
    ends: list[tuple[float, TwhinError]] = []

    def writing(*arguments: Any) -> int | None:
        sent_at = time.monotonic()
        written = write(*arguments)
        renewed_at[0] = sent_at  # nobody can have seen it earlier
        return written

    def end(error: TwhinError) -> None:
        ends.append((time.monotonic(), error))
        ended.set()

    monkeypatch.setattr(storage, "write_if", writing)
    monkeypatch.setattr(lease, "_exit", end)
    with lease.hold(remote, "train"):
        assert not ended.wait(random.uniform(0, 2 * lease.EXPIRY)), "it is renewed"
        server.is_down, before = True, time.monotonic()
        try:
            assert ended.wait(60)
            last = min(renewed_at[0], before)
            (ended_at, error), *_ = ends
            assert ended_at - last < lease.EXPIRY
        finally:
            server.is_down = False
    assert isinstance(error, LeaseLost)
    assert error.exit_code == 75
    assert f"{remote}/.leases/train: could not be renewed for" in str(error)


REMOVALS: dict[str, Callable[[Path], object]] = {
    "the root": shutil.rmtree,
    "the leases": lambda root: shutil.rmtree(root / ".leases"),
    "the lease": lambda root: (root / ".leases/train").unlink(),
    "the root, moved": lambda root: root.rename(root.with_name("moved")),
    "the leases, moved": lambda root: (root / ".leases").rename(root / "moved"),
    "the lease, replaced": lambda root: storage.write_text(str(root / ".leases/train"), ""),
    "the root, replaced by a file": lambda root: (shutil.rmtree(root), root.touch()),
}


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_run_whose_folder_is_removed_ends_before_another_takes_it(removal: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    code = f"import time\nfrom twhin_core import lease\nwith lease.hold({str(root)!r}, 'train'): time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (root / ".leases/train").exists() or not (root / ".leases/train").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    REMOVALS[removal](root)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors == f"error: {root}/.leases/train: was removed while this run was working there; it stops\n"


def test_a_config_does_not_change_while_another_stage_is_running(root: str, small_config: SmallConfig) -> None:
    """Even though the root has no results yet, which would otherwise allow it."""
    first, second = small_config(), small_config(training={"seed": 5})
    url = storage.join(root, "config.yaml")
    with working(first, root, "prepare"):
        before = storage.read_text(url)
        with pytest.raises(UserError, match="another run is active here: prepare"), working(second, root, "train"):
            pass
        assert storage.read_text(url) == before
    with working(second, root, "prepare"):
        assert config_file.parse(storage.read_text(url)) == second


def test_one_of_two_concurrent_runs_gets_the_root(root: str, small_config: SmallConfig) -> None:
    configs = [small_config(training={"seed": seed}) for seed in range(2)]
    together, ended, outcomes = threading.Barrier(2), threading.Barrier(2), {}

    def claim(number: int) -> None:
        together.wait(60)
        try:
            with working(configs[number], root, ("prepare", "train")[number]):
                outcomes[number] = "works"
                ended.wait(60)
        except UserError as error:
            outcomes[number] = str(error)
            ended.wait(60)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number, outcome in outcomes.items() if outcome == "works"]
    assert "another run is active here" in outcomes[1 - winner]
    assert config_file.parse(storage.read_text(storage.join(root, "config.yaml"))) == configs[winner]


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    refused = pytest.raises(StorageRefused, match=r"\.leases/train: cannot be written: File too large")
    with small_files(10), refused, lease.hold(str(tmp_path), "train"):
        pass
    with lease.hold(str(tmp_path), "train"):
        pass


def test_a_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    root = str(tmp_path)
    with lease.hold(root, "run"):
        ran = twhin("run", "configs/quickstart.yaml", "--run-root", root)
        assert_refused(ran, root, "another run is active here: run, process", "use another --run-root")
    assert not (tmp_path / "graph").exists()


@pytest.mark.parametrize(
    "content",
    [b"{", b"\0" * 100, b"\xff\xfe", b"[]", b"null", b"{}", b'{"pid": "7"}', b'{"pid": 7}', b'"pid"', b"1"],
)
def test_a_damaged_lease_is_that_of_an_unknown_process(
    root: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY", 0.3)
    url = storage.join(root, ".leases/train")
    with storage.open_write(url) as file:
        file.write(content)
    assert lease._holder_name(content.decode(errors="replace")) == "an unknown process"
    with lease.hold(root, "train", grace=5):
        pass
