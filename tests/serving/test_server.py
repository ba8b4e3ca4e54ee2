"""The process: who may ask, what it refuses to start with, and how it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import COMMAND, ROOT, assert_refused, twhin
from tests.serving.running import Server, serving

TOKEN = "s3cret-token"
ASKED = "/recommend?relation=fav&ids=u3"


@pytest.fixture(scope="module")
def server(exported_root: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(f"{TOKEN}\n")
    with serving(exported_root, "--token-file", str(path)) as server:
        yield server


@pytest.mark.parametrize(
    "sent",
    [None, "", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"bearer {TOKEN}", "é"],
)
def test_without_the_token_only_health_is_answered(server: Server, sent: str | None) -> None:
    headers = {} if sent is None else {"Authorization": sent}
    for path in (ASKED, "/metrics", "/docs", "/openapi.json", "/no/such/path"):
        assert server.ask("GET", path, headers=headers) == (401, {"error": "the token is missing or wrong"})
    assert server.ask("GET", "/healthz", headers=headers)[0] == 200


def test_with_the_token_all_is_answered_and_no_secret_or_id_is_logged(server: Server) -> None:
    for path in (ASKED, "/metrics", "/docs", "/openapi.json"):
        assert server.ask("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
    assert TOKEN not in server.log()
    assert "u3" not in server.log()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(server: Server, is_chunked: bool) -> None:
    sent = [b" " * 300_000] * 4
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with contextlib.closing(server.connect()) as connection:
        # What is refused may not be read to its end, so sending may fail before there is an answer.
        with contextlib.suppress(ConnectionError):
            body: Any = iter(sent) if is_chunked else b"".join(sent)
            connection.request("POST", "/score", body, headers, encode_chunked=is_chunked)
        assert connection.getresponse().status == 413
    assert server.ask("GET", ASKED, headers=headers)[0] == 200


def test_requests_in_flight_end_before_the_process_does(exported_root: str) -> None:
    edges = [{"lhs": f"new{number}", "relation": "fav", "rhs": "t4"} for number in range(3000)]
    with serving(exported_root) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.post, "/embed", {"table": "user", "edges": edges})
        while not server.metric("twhin_requests_in_flight") >= 2:  # it, and that for this metric
            assert not asked.done(), "it ended before the server was stopped"
        assert server.stop() == 0
        status, answer = asked.result()
        assert (status, len(answer["vectors"])) == (200, 3000)
        assert "serve: stopped by SIGTERM" in server.log()
        assert "Traceback" not in server.log()


def test_listening_beyond_loopback_needs_a_token(exported_root: str) -> None:
    for bind in ("0.0.0.0:0", "[::]:0", "192.0.2.1:8080", "example.com:8080"):
        refused = twhin("serve", exported_root, "--bind", bind)
        assert_refused(
            refused, f"--bind: {bind} can be reached from other machines", "--token-file", "--allow-anonymous"
        )


def test_a_token_file_that_is_none_is_refused(exported_root: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert_refused(twhin("serve", exported_root, "--token-file", path), f"--token-file: {path} cannot be read: No such")
    path.write_text("\n")
    assert_refused(twhin("serve", exported_root, "--token-file", path), f"--token-file: {path} is empty")
    path.write_text("two words")
    assert_refused(twhin("serve", exported_root, "--token-file", path), "--token-file: must be printable ASCII")


def test_what_cannot_be_served_is_said(exported_root: str, tmp_path: Path) -> None:
    assert_refused(twhin("serve", tmp_path / "none", "--bind", "127.0.0.1:0"), "none: there is no run here")
    assert_refused(twhin("serve", exported_root, "--bind", "8080"), "--bind: '8080' is not HOST:PORT")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_refused(twhin("serve", exported_root, "--bind", address), f"--bind: cannot listen at {address}: Address")


@pytest.mark.parametrize("library", ["fastapi", "uvloop"])
def test_without_the_extra_one_line_says_what_to_install(exported_root: str, library: str) -> None:
    program = f"import sys; sys.modules[{library!r}] = None; {COMMAND[-1]}"
    ran = subprocess.run(
        [sys.executable, "-c", program, "serve", exported_root], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert_refused(ran, f"serve: needs the library {library}, which is not installed: pip install 'twhin[serve]'")
