"""Object storage on a local server, behind a proxy that makes a tenth of the requests fail."""

from __future__ import annotations

import contextlib
import gc
import http.server
import json
import logging
import os
import threading
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest

from tests.command_line import assert_refused, twhin
from tests.fault_proxy import KINDS, FaultProxy
from tests.object_store import STORES, environment, environment_at, files_at, reach, serve_bucket
from twhin_core import storage
from twhin_core.errors import StorageError, StorageRefused
from twhin_core.graph.copies import copy_file
from twhin_core.paths import find_files
from twhin_core.stores import failures, gcs
from twhin_core.training.tensorboard import EventFiles

LARGE = {"gs": 12_500_000, "s3": 35_000_000, "abfs": 35_000_000}
"""The size of an object in three parts."""


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1, seed=1, store=request.param) as proxy:
        yield proxy


@pytest.fixture
def bucket(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    return reach(server, monkeypatch)


def test_objects_survive_a_round_trip(server: FaultProxy, bucket: str) -> None:
    rng, before = np.random.default_rng(0), server.faults.total()
    contents = {f"{bucket}/data/{number}": rng.bytes(3_000 * number**2) for number in range(40)}
    contents[f"{bucket}/data/large"] = rng.bytes(LARGE[server.store])
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


@pytest.mark.parametrize("size", [10, 7_000_000, 20_000_000])
def test_a_failed_write_leaves_nothing(size: int, server: FaultProxy, bucket: str) -> None:
    url = f"{bucket}/failed/{size}"

    def fail() -> None:
        with storage.open_write(url) as file:
            file.write(b"x" * size)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    gc.collect()
    assert not files_at(server).exists(url.partition("://")[2])


def test_a_bucket_that_does_not_exist(server: FaultProxy, bucket: str) -> None:
    nowhere = f"{server.store}://nowhere"
    for act in (
        lambda: storage.write_text(f"{nowhere}/x", "1"),
        lambda: storage.publish(f"{nowhere}/x", "1"),
        lambda: find_files(f"{nowhere}/*.parquet"),
    ):
        with pytest.raises(StorageRefused, match=rf"{nowhere}/.*: there is no bucket nowhere"):
            act()


def test_the_command_names_a_bucket_that_does_not_exist(server: FaultProxy) -> None:
    root = f"{server.store}://nowhere/run"
    ran = twhin("prepare", "configs/quickstart.yaml", "--run-root", root, **environment(server))
    assert_refused(ran, root, "there is no bucket nowhere")


def test_ranges_are_those_of_the_content(server: FaultProxy, bucket: str) -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    with storage.open_write(f"{bucket}/ranges/one") as file:
        file.write(content)
    fs, path = storage.filesystem(f"{bucket}/ranges/one")
    for start, end in ((0, 10), (5, 5), (2_999_990, 3_000_000), (-7, None), (1_000_000, None), (None, 3), (-9, -2)):
        assert fs.cat_file(path, start, end) == content[start:end]
    starts = [0, 10, 2_500_000, 10, 1_234_567]
    ends = [4, 1_000_010, 3_000_000, 20, 1_234_568]
    expected = [content[start:end] for start, end in zip(starts, ends, strict=True)]
    assert fs.cat_ranges([path] * 5, starts, ends, on_error="raise") == expected
    with storage.open_read(f"{bucket}/ranges/one") as file:
        for start in (2_999_000, 0, 1_500_000):
            file.seek(start)
            assert file.read(500) == content[start : start + 500]


def test_a_copy_in_a_store_and_between_stores(server: FaultProxy, bucket: str, tmp_path: Path) -> None:
    storage.write_text(f"{bucket}/copied/one", "1")
    for target in (f"{bucket}/copied/two", str(tmp_path / "three"), f"{bucket}/copied/four"):
        copy_file(f"{bucket}/copied/one" if "four" not in target else str(tmp_path / "three"), target)
        assert storage.read_text(target) == "1"


def test_objects_that_only_make_a_folder_visible_are_no_files(server: FaultProxy, bucket: str) -> None:
    if server.store != "s3":
        pytest.skip("only the console of S3 makes them")
    for key in ("shown/", "shown/sub/", "shown/sub/x"):
        body = b"1" if key.endswith("x") else b""
        request = urllib.request.Request(f"{server.upstream}/bucket/{key}", body, method="PUT")
        request.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(request).close()
    assert [file.url for file in find_files(f"{bucket}/shown")] == [f"{bucket}/shown/sub/x"]
    assert [file.url for file in find_files(f"{bucket}/shown/*")] == [f"{bucket}/shown/sub/x"]
    assert storage.list_folders(f"{bucket}/shown") == ["sub"]
    storage.remove(f"{bucket}/shown")
    assert not storage.exists(f"{bucket}/shown/sub/x")


def test_folders_of_azure_are_no_files(server: FaultProxy, bucket: str) -> None:
    """Azure lists folders as objects of no bytes without a slash, and other names may stand before what is in them."""
    if server.store == "gs":
        pytest.skip("not on Google's store")
    empty, full = ["tree", "tree/sub", "tree/sub/deep"], ["tree-2", "tree/sub/deep/x", "tree/sub-2/x"]
    for name in (*empty, *full):
        storage.write_text(f"{bucket}/flat/{name}", "" if name in empty else "1")
    assert [file.url for file in find_files(f"{bucket}/flat")] == [f"{bucket}/flat/{name}" for name in sorted(full)]
    assert sorted(storage.list_folders(f"{bucket}/flat")) == ["tree"]
    assert [file.url for file in find_files(f"{bucket}/flat/*")] == [f"{bucket}/flat/{name}" for name in sorted(full)]


@contextlib.contextmanager
def answering(status: int, message: str, code: str = "") -> Iterator[str]:
    """A server that gives every request the same answer; in XML with a `code`, as S3 and Azure do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps({"error": {"code": status, "message": message}}).encode()
            if code:
                # S3 says what it was sent, and so tells more than anyone should log.
                sent = escape(f"{self.path} {self.headers}")
                body = f"<Error><Code>{code}</Code><Message>{message}</Message><Sent>{sent}</Sent></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_POST = do_PUT = do_HEAD = do_DELETE = do_GET  # noqa: N815 -- http.server's names

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
        monkeypatch.setenv(gcs.EMULATOR, url)
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


@pytest.mark.parametrize("store", ["s3", "abfs"])
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "Access Denied"),
        (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
        (403, "AuthorizationFailure", "This request is not authorized to perform this operation."),
        (401, "NoAuthenticationInformation", "Server failed to authenticate the request."),
        (400, "ExpiredToken", "The provided token has expired."),
    ],
)
def test_credentials_that_s3_or_azure_refuses(
    store: str, status: int, code: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, said, code) as url:
        for name, value in environment_at(store, url).items():
            monkeypatch.setenv(name, value)
        acts: dict[Callable[[], object], str] = {
            lambda: storage.write_text(f"{store}://bucket/x", "1"): said,
            lambda: storage.publish(f"{store}://bucket/x", "1"): said,
            lambda: storage.exists(f"{store}://bucket/x"): str(status),  # the answer to HEAD has no body
            lambda: storage.read_text(f"{store}://bucket/x"): said,
            lambda: storage.list_folders(f"{store}://bucket/x"): said,
        }
        for act, words in acts.items():
            with pytest.raises(StorageRefused, match=rf"{store}://bucket") as caught:
                act()
            assert words in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_bucket_of_another_region_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS answers so, without a place to go on."""
    with answering(301, "Must be addressed using the specified endpoint.", "PermanentRedirect") as url:
        for name, value in environment_at("s3", url).items():
            monkeypatch.setenv(name, value)
        for act in (storage.read_bytes, storage.list_folders, lambda url: storage.write_text(url, "1")):
            with pytest.raises(StorageRefused, match=r"^s3://bucket/x: .*incorrectly configured region"):
                act("s3://bucket/x")


SECRETS = ["AKIDSECRET", "wJalrXUtnFEMI", "FwoGZXIvYXdz", "c2VjcmV0LWtleQ==", "c2lnbmF0dXJl"]
KEY_ID, KEY, TOKEN, AZURE_KEY, SIGNATURE = SECRETS
SAS = f"sv=2020&sig={SIGNATURE}"
OF_S3 = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_SESSION_TOKEN": TOKEN}
OF_AZURE = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY}
OF_SAS = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_SAS_KEY": SAS}
CONNECTION = f"AccountName=account;AccountKey={AZURE_KEY};BlobEndpoint=URL/account"


@pytest.mark.parametrize(
    ("store", "settings"),
    [
        ("s3", OF_S3),
        ("s3", {**OF_S3, "AWS_ACCESS_KEY_ID": f"{KEY_ID}\n"}),
        ("s3", {**OF_S3, "AWS_SECRET_ACCESS_KEY": f" {KEY}"}),
        ("s3", {**OF_S3, "AWS_SESSION_TOKEN": f"{TOKEN}é"}),
        ("s3", {**OF_S3, "AWS_ENDPOINT_URL": "minio:9000"}),
        ("s3", {**OF_S3, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}),
        ("s3", {"AWS_PROFILE": "default", "AWS_SHARED_CREDENTIALS_FILE": "FILE"}),
        ("s3", {"AWS_PROFILE": "other", "AWS_SHARED_CREDENTIALS_FILE": "FILE"}),
        ("s3", {"AWS_SHARED_CREDENTIALS_FILE": "BROKEN"}),
        ("s3", {"AWS_PROFILE": "spoiled", "AWS_SHARED_CREDENTIALS_FILE": "FILE"}),
        ("abfs", OF_AZURE),
        ("abfs", {**OF_AZURE, "AZURE_STORAGE_ACCOUNT_KEY": f"{AZURE_KEY}!"}),
        ("abfs", OF_SAS),
        ("abfs", {**OF_SAS, "AZURE_STORAGE_SAS_KEY": SAS.replace("&", "&nonsense&")}),
        ("abfs", {**OF_SAS, "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1"}),
        ("abfs", {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION}),
    ],
)
@pytest.mark.parametrize("status", [403, 400, 503, 301])
def test_credentials_are_never_shown(
    store: str,
    settings: dict[str, str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither in a message nor in a traceback, nor in a log of any level."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(failures, "RETRY_TIMEOUT", 0.2)
    monkeypatch.setattr(failures, "RETRY_DELAYS", (0.01, 0.02))
    keys = f"aws_access_key_id = {KEY_ID}\naws_secret_access_key = {KEY}\n"
    spoiled = f"[spoiled]\n{keys}aws_session_token = {TOKEN}\x01é\n"
    (tmp_path / "FILE").write_text(f"[default]\n{keys}[other]\nrole_arn = {KEY}\n{spoiled}")
    (tmp_path / "BROKEN").write_text(keys)
    with answering(status, "Refused", "Refused") as url:
        endpoint = "AWS_ENDPOINT_URL" if store == "s3" else "AZURE_STORAGE_ENDPOINT"
        for name, value in {endpoint: url, **settings}.items():
            at = str(tmp_path / value) if value in ("FILE", "BROKEN") else value.replace("URL", url)
            monkeypatch.setenv(name, at)
        for act in (storage.exists, storage.read_bytes, lambda url: storage.write_text(url, "1")):
            with pytest.raises(StorageError) as caught:
                act(f"{store}://bucket/x")
            assert "\n" not in str(caught.value)
            shown = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
            assert [secret for secret in SECRETS if secret in shown] == []


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
    monkeypatch.delenv(gcs.EMULATOR, raising=False)
    monkeypatch.setenv(gcs.CREDENTIALS, str(key))
    with pytest.raises(StorageRefused, match=r"GOOGLE_APPLICATION_CREDENTIALS: .+") as caught:
        storage.exists("gs://bucket/x")
    assert "\n" not in str(caught.value)
    assert str(key) in str(caught.value)


def test_retries_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_TIMEOUT", 0.5)
    monkeypatch.setattr(failures, "RETRY_DELAYS", (0.01, 0.1))
    with answering(503, "Service Unavailable") as url:
        monkeypatch.setenv(gcs.EMULATOR, url)
        with pytest.raises(
            StorageError, match=r"gs://bucket.*: failed after retrying for 0\.5 s: Service Unavailable"
        ) as caught:
            storage.write_text("gs://bucket/x", "1")
        assert caught.value.exit_code == 1
        with pytest.raises(StorageError):
            storage.exists("gs://bucket/x")  # and not False, as if there were nothing
        with pytest.raises(StorageError):
            storage.list_folders("gs://bucket/x")


@pytest.mark.parametrize("store", STORES)
def test_a_server_that_does_not_listen_is_tried_again(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is while it starts again."""
    monkeypatch.setattr(failures, "RETRY_TIMEOUT", 0.2)
    monkeypatch.setattr(failures, "RETRY_DELAYS", (0.01, 0.02))
    for name, value in environment_at(store, "http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    url = f"{store}://bucket/x"
    acts: list[Callable[[], object]] = [
        lambda: storage.write_if(url, "1", 0),
        lambda: storage.write_text(url, "1"),
        lambda: storage.read_bytes(url),
        lambda: storage.exists(url),
        lambda: storage.list_folders(url),
        lambda: storage.remove(url),
    ]
    for act in acts:
        with pytest.raises(StorageError, match=rf"^{store}://bucket.*: failed after retrying for 0\.2 s: ") as caught:
            act()
        assert caught.value.exit_code == 1


def test_training_survives_event_files_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(failures, "RETRY_TIMEOUT", 0.2)
    with answering(503, "Service Unavailable") as url:
        monkeypatch.setenv(gcs.EMULATOR, url)
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
