"""A server of a series follows what is published, under requests of which none fails."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving.running import SECONDS, Server, serving
from twhin_core.series.publish import publish
from twhin_core.series.reading import is_read
from twhin_core.series.retention import keep_newest

CLIENTS = 4


@pytest.fixture
def series(exported_root: str, tmp_path: Path) -> str:
    """Versions 1, 2 and 3, of which 1 is published, and the index of 3 is broken."""
    for version in ("1", "2", "3"):
        shutil.copytree(exported_root, tmp_path / "series/versions" / version)
    series = str(tmp_path / "series")
    publish(series, "1")
    return series


class Clients:
    """Ask without a pause, each over one connection, and remember what they got."""

    def __init__(self, server: Server) -> None:
        self._server, self._ends = server, threading.Event()
        self.statuses: list[int] = []
        self.versions: list[list[str]] = [[] for _ in range(CLIENTS)]
        self._threads = [threading.Thread(target=self._ask, args=(versions,)) for versions in self.versions]

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ends.set()
            for thread in self._threads:
                thread.join()

    def _ask(self, versions: list[str]) -> None:
        with contextlib.closing(self._server.connect()) as connection:
            while not self._ends.is_set():
                connection.request("GET", "/recommend?relation=fav&ids=u3&k=5")
                answer = connection.getresponse()
                body = json.loads(answer.read())
                self.statuses.append(answer.status)
                versions.append(body.get("version"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_new_version_is_served_without_a_failed_request(series: str) -> None:
    roots = {version: f"{series}/versions/{version}" for version in ("1", "2", "3")}
    index = Path(roots["3"], "embeddings/faiss/tweet.index")
    whole = index.read_bytes()
    with serving(series, "--reload-seconds", "0.1") as server:
        assert server.get("/healthz")[1]["version"] == "1"
        assert is_read(roots["1"])
        clients = Clients(server)
        with clients.asking():
            wait_until(lambda: len(clients.statuses) > 10)
            publish(series, "2")
            wait_until(lambda: server.get("/healthz")[1]["version"] == "2")
            wait_until(lambda: not is_read(roots["1"]))
            assert is_read(roots["2"])
            assert server.metric("twhin_reloads_total", result="done") == 1

            index.write_bytes(whole[:-10])
            publish(series, "3")
            wait_until(lambda: server.metric("twhin_reloads_total", result="failed") >= 1)
            assert server.get("/healthz")[1]["version"] == "2"
            assert "another version cannot be served, the one before still is: " in server.log()
            assert "tweet.index: does not match its checksum" in server.log()
            keep_newest(series, 1)
            assert Path(roots["2"], "config.yaml").exists()
            assert not Path(roots["1"], "config.yaml").exists()

            index.write_bytes(whole)
            wait_until(lambda: server.get("/healthz")[1]["version"] == "3")
            wait_until(lambda: all(versions[-1] == "3" for versions in clients.versions))
        step = server.get("/healthz")[1]["step"]
        assert server.metric("twhin_version_info", step=str(step), version="3") == 1
        assert server.metric("twhin_version_info", step=str(step), version="2") == 0
        assert set(clients.statuses) == {200}
        for versions in clients.versions:
            assert sorted(versions) == versions
            assert set(versions) == {"1", "2", "3"}
        assert server.stop() == 0
    assert not any(is_read(root) for root in roots.values())


def test_a_version_that_is_named_itself_stays(series: str) -> None:
    with serving(f"{series}/versions/1", "--reload-seconds", "0.1") as server:
        publish(series, "2")
        time.sleep(0.5)
        assert server.get("/recommend", relation="fav", ids="u3")[1]["version"] == "1"
        assert server.metric("twhin_reloads_total", result="done") == 0
