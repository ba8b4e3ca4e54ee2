"""A real MLflow server on loopback, with its figures in SQLite and its artifacts in a folder."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(folder: Path, port: int) -> Iterator[str]:
    """Runs the server while the block does; what it keeps in `folder` outlives it. Gives its URL."""
    folder.mkdir(exist_ok=True)
    store = f"sqlite:///{folder}/mlflow.db"
    environment = os.environ | {
        "_MLFLOW_SERVER_FILE_STORE": store,
        "_MLFLOW_SERVER_REGISTRY_STORE": store,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
    }
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "mlflow.server.fastapi_app:app"]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        _wait(url, server, folder / "server.log")
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(requests.ConnectionError):
            # The first look at the store makes its tables.
            body = {"max_results": 1}
            if requests.post(f"{url}/api/2.0/mlflow/experiments/search", json=body, timeout=60).ok:
                return
        time.sleep(0.1)
    raise AssertionError(log.read_text())
