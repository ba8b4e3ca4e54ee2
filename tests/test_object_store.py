"""Object storage on a local server, behind a proxy that makes a tenth of the requests fail."""

from __future__ import annotations

import contextlib
import gc
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import gcsfs
import numpy as np
import pytest

from tests.command_line import assert_refused, twhin
from tests.fault_proxy import KINDS, FaultProxy
from tests.object_store import serve_bucket
from twhin_core import object_store, storage
from twhin_core.errors import StorageError, StorageRefused
from twhin_core.paths import find_files
from twhin_core.training.tensorboard import EventFiles


@pytest.fixture(scope="module")
def server() -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1, seed=1) as proxy:
        yield proxy


@pytest.fixture
def bucket(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(object_store.EMULATOR, server.url)
    monkeypatch.setattr(object_store, "RETRY_DELAYS", (0.01, 0.1))
    return "gs://bucket"


def stored(server: FaultProxy) -> gcsfs.GCSFileSystem:
    """The objects on the server, read without the proxy."""
    return gcsfs.GCSFileSystem(token="anon", endpoint_url=server.upstream, use_listings_cache=False)


def test_objects_survive_a_round_trip(server: FaultProxy, bucket: str) -> None:
    rng, before = np.random.default_rng(0), server.faults.total()
    contents = {f"{bucket}/data/{number}": rng.bytes(3_000 * number**2) for number in range(40)}
    contents[f"{bucket}/data/large"] = rng.bytes(12_500_000)  # in three parts
    for url, content in contents.items():
        with storage.open_write(url) as file:
            for start in range(0, len(content), 1_000_000):
                file.write(content[start : start + 1_000_000])
    for url, content in contents.items():
        with storage.open_read(url) as file:
            assert file.read() == content
    assert [file.url for file in find_files(f"{bucket}/data")] == sorted(contents)
    assert storage.list_folders(bucket) == ["data"]
    storage.remove(f"{bucket}/data")
    assert not storage.exists(f"{bucket}/data")
    assert server.faults.total() - before > 10
    assert set(server.faults) == set(KINDS)


def test_a_retried_write_is_not_a_conflict(server: FaultProxy, bucket: str) -> None:
    lost = server.faults["lost"]
    for number in range(100):
        url = f"{bucket}/conditional/{number}"
        first = storage.write_if(url, "one", 0)
        assert first is not None
        assert storage.write_if(url, "another's", 0) is None
        second = storage.write_if(url, "two", first)
        assert second not in (None, first)
        assert storage.write_if(url, "another's", first) is None
        assert storage.read_generation(url) == ("two", second)
    assert server.faults["lost"] > lost
    assert storage.read_generation(f"{bucket}/conditional/none") == ("", 0)


def test_publishing_does_not_overwrite_another_run(bucket: str) -> None:
    url = f"{bucket}/run/manifest.json"
    storage.publish_json(url, {"of": "this run"})
    storage.publish_json(url, {"of": "this run"})  # its own, as after an answer that was lost
    with pytest.raises(StorageRefused, match=f"{url}: another run has published here in the meantime"):
        storage.publish_json(url, {"of": "another"})
    assert storage.read_json(url) == {"of": "this run"}


@pytest.mark.parametrize("size", [10, 7_000_000])
def test_a_failed_write_leaves_nothing(size: int, server: FaultProxy, bucket: str) -> None:
    url = f"{bucket}/failed/{size}"

    def fail() -> None:
        with storage.open_write(url) as file:
            file.write(b"x" * size)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    gc.collect()
    assert not stored(server).exists(url)


def test_a_bucket_that_does_not_exist(bucket: str) -> None:
    for act in (
        lambda: storage.write_text("gs://nowhere/x", "1"),
        lambda: storage.publish("gs://nowhere/x", "1"),
        lambda: find_files("gs://nowhere/*.parquet"),
    ):
        with pytest.raises(StorageRefused, match=r"gs://nowhere/.*: there is no bucket nowhere"):
            act()


def test_the_command_names_a_bucket_that_does_not_exist(server: FaultProxy) -> None:
    ran = twhin(
        "prepare", "configs/quickstart.yaml", "--run-root", "gs://nowhere/run", STORAGE_EMULATOR_HOST=server.url
    )
    assert_refused(ran, "gs://nowhere/run", "there is no bucket nowhere")


@contextlib.contextmanager
def answering(status: int, message: str) -> Iterator[str]:
    """A server that gives every request the same answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps({"error": {"code": status, "message": message}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 -- http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "Anonymous caller does not have storage.objects.create access to the object."),
        (401, "Invalid Credentials"),
        (403, "ada@example.com does not have storage.objects.get access to the object."),
    ],
)
def test_credentials_that_are_missing_or_refused(status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(status, said) as url:
        monkeypatch.setenv(object_store.EMULATOR, url)
        for act in (
            lambda: storage.write_text("gs://bucket/x", "1"),
            lambda: storage.publish("gs://bucket/x", "1"),
            lambda: storage.exists("gs://bucket/x"),
            lambda: storage.read_text("gs://bucket/x"),
            lambda: storage.list_folders("gs://bucket/x"),
            lambda: find_files("gs://bucket/x/*"),
        ):
            with pytest.raises(
                StorageRefused, match=r"gs://bucket.*: credentials are missing or lack permission"
            ) as caught:
                act()
            assert said in str(caught.value)
            assert "\n" not in str(caught.value)


def test_the_command_reports_it_in_one_line() -> None:
    with answering(403, "ada@example.com does not have access.") as url:
        ran = twhin("train", "configs/local.yaml", "--run-root", "gs://bucket/run", STORAGE_EMULATOR_HOST=url)
        assert_refused(ran, "gs://bucket", "ada@example.com does not have access", "GOOGLE_APPLICATION_CREDENTIALS")


def test_a_missing_credentials_file() -> None:
    ran = twhin(
        "prepare", "configs/quickstart.yaml", "--run-root", "gs://bucket/run",
        STORAGE_EMULATOR_HOST=None, GOOGLE_APPLICATION_CREDENTIALS="/nowhere/key.json",
    )  # fmt: skip
    assert_refused(ran, "GOOGLE_APPLICATION_CREDENTIALS: there is no file /nowhere/key.json")


@pytest.mark.parametrize("content", ["no JSON", "{}", '{"type": "service_account"}'])
def test_an_invalid_credentials_file(content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    key.write_text(content)
    monkeypatch.delenv(object_store.EMULATOR, raising=False)
    monkeypatch.setenv(object_store.CREDENTIALS, str(key))
    with pytest.raises(StorageRefused, match=r"GOOGLE_APPLICATION_CREDENTIALS: .+") as caught:
        storage.exists("gs://bucket/x")
    assert "\n" not in str(caught.value)
    assert str(key) in str(caught.value)


def test_retries_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRY_TIMEOUT", 0.5)
    monkeypatch.setattr(object_store, "RETRY_DELAYS", (0.01, 0.1))
    with answering(503, "Service Unavailable") as url:
        monkeypatch.setenv(object_store.EMULATOR, url)
        with pytest.raises(
            StorageError, match=r"gs://bucket.*: failed after retrying for 0\.5 s: Service Unavailable"
        ) as caught:
            storage.write_text("gs://bucket/x", "1")
        assert caught.value.exit_code == 1
        with pytest.raises(StorageError):
            storage.exists("gs://bucket/x")  # and not False, as if there were nothing
        with pytest.raises(StorageError):
            storage.list_folders("gs://bucket/x")


def test_training_survives_event_files_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(object_store, "RETRY_TIMEOUT", 0.2)
    with answering(503, "Service Unavailable") as url:
        monkeypatch.setenv(object_store.EMULATOR, url)
        events = EventFiles("gs://bucket/run", 0)
        events.add(1, {"loss": 0.5})
        events.flush()
        events.close()
    assert caplog.text.count("TensorBoard events are no longer written: gs://bucket") == 1


@pytest.mark.parametrize("below", ["file/run", "dangling/run"])
def test_a_root_that_cannot_be_written(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.symlink("/proc/nowhere", tmp_path / "dangling")
    root = f"{tmp_path}/{below}"
    assert_refused(twhin("prepare", "configs/quickstart.yaml", "--run-root", root), root, "cannot be written")
