"""`twhin serve` as a process of its own, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.command_line import ROOT, become
from tests.preloaded import CONTEXT

SECONDS = 120
"""What starting and stopping may take."""


class Server:
    def __init__(self, process: Any, errors: Path) -> None:
        self.process, self._errors, self.token = process, errors, None
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(r" at http://127\.0\.0\.1:(\d+)\n", self.log())):
            assert process.exitcode is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        self.port = int(found[1])

    def log(self) -> str:
        return self._errors.read_text() if self._errors.exists() else ""

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def get(self, path: str, **parameters: Any) -> tuple[int, Any]:
        return self.ask("GET", f"{path}?{urlencode(parameters, doseq=True)}" if parameters else path)

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        return self.ask("POST", path, json.dumps(body), {"Content-Type": "application/json"})

    def ask(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """The status, and what the JSON says or else the text."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = answer.headers["Content-Type"] == "application/json"
            return answer.status, json.loads(text) if is_json else text

    def metric(self, name: str, **labels: str) -> float:
        """0 if it has not been counted."""
        wanted = ",".join(f'{label}="{value}"' for label, value in labels.items())
        line = f"{name}{{{wanted}}} " if wanted else f"{name} "
        _, text = self.get("/metrics")
        return sum(float(of.removeprefix(line)) for of in text.splitlines() if of.startswith(line))

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self.process.terminate()
        self.process.join(SECONDS)
        assert self.process.exitcode is not None
        return int(self.process.exitcode)


@contextlib.contextmanager
def serving(path: str, *options: str) -> Iterator[Server]:
    """Serves a run root or series, at a port that the system chooses, while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        command = ["twhin", "serve", path, "--bind", "127.0.0.1:0", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
        process = CONTEXT.Process(target=_main, args=(command, environment, out, errors))
        process.start()
        try:
            yield Server(process, errors)
        finally:
            process.kill()
            process.join()


def _main(command: list[str], environment: dict[str, str], *streams: Path) -> None:
    become(environment, *streams)
    sys.argv = command
    from twhin.pipelines.cli import main

    main()


class Exported:
    """What the files of an export say: vectors by id, and the vectors of translations."""

    def __init__(self, root: str) -> None:
        self.ids, self.vectors = {}, {}
        for table in ("user", "tweet"):
            files = sorted(Path(root, "embeddings", table).glob("*.parquet"))
            rows = pa.concat_tables([pq.read_table(file) for file in files])
            self.ids[table] = rows["id"].to_pylist()
            self.vectors[table] = np.array(rows["embedding"].to_pylist())
        rows = pq.read_table(f"{root}/embeddings/relations.parquet").to_pylist()
        self.translation = {row["name"]: np.array(row["embedding"]) for row in rows}

    def of(self, table: str, name: str) -> np.ndarray:
        return self.vectors[table][self.ids[table].index(name)]

    def scores(self, user: str, relation: str) -> dict[str, float]:
        """Of all candidates for (user, relation, ?), by the dot product."""
        return self.scores_of(self.of("user", user), relation)

    def scores_of(self, vector: np.ndarray, relation: str) -> dict[str, float]:
        table = {"fav": "tweet", "follow": "user"}[relation]
        products = self.vectors[table] @ (vector + self.translation[relation])
        return dict(zip(self.ids[table], products.tolist(), strict=True))

    def cosines(self, user: str) -> dict[str, float]:
        vectors, own = self.vectors["user"], self.of("user", user)
        products = vectors @ own / np.linalg.norm(vectors, axis=1) / np.linalg.norm(own)
        return dict(zip(self.ids["user"], products.tolist(), strict=True))


def best(scores: dict[str, float], k: int, left_out: set[str]) -> list[tuple[str, float]]:
    kept = {name: score for name, score in scores.items() if name not in left_out}
    return sorted(kept.items(), key=lambda one: -one[1])[:k]
