"""`twhin serve`: the process that listens."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket

import uvicorn
import uvloop

from twhin_core.data.readers import is_loopback, parse_address, read_token
from twhin_core.errors import UserError
from twhin_core.progress import log
from twhin_core.published import read_current
from twhin_core.run import is_series
from twhin_core.serving.answers import Answers
from twhin_core.serving.app import make_app
from twhin_core.serving.limits import Limits
from twhin_core.serving.metrics import Metrics
from twhin_core.serving.service import Service, follow
from twhin_core.serving.version import load

GRACE_SECONDS = 20
"""How long requests may take after SIGTERM. Kubernetes kills a pod 30 seconds after that."""


BACKLOG = 2048


def serve(
    path: str,
    bind: str,
    token_file: str | None = None,
    allow_anonymous: bool = False,
    limits: Limits | None = None,
    reload_seconds: float = 10.0,
) -> None:
    """Serves the run at `path`, or the published version of the series there, until SIGTERM or SIGINT.

    Args:
        bind: the `HOST:PORT` to listen on; port 0 picks a free one.
        reload_seconds: how often to look for another version of a series.

    Raises:
        UserError: the address or the token is invalid, the address is in use or needs a token, or as
            `serving.version.load`.
    """
    host, port = parse_address(bind, "--bind")
    token = None if token_file is None else read_token(token_file, "--token-file")
    if token is None and not allow_anonymous and not is_loopback(host):
        raise UserError(
            f"--bind: {bind} can be reached from other machines; set --token-file, or --allow-anonymous if whoever "
            "reaches it may ask"
        )
    listening = _listen(bind, host.strip("[]"), port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(path, listening, token, limits or Limits(), reload_seconds))


async def _serve(path: str, listening: socket.socket, token: str | None, limits: Limits, reload_seconds: float) -> None:
    published = read_current(path) if is_series(path) else None
    version, metrics = load(path), Metrics()
    service = Service(version, metrics)
    app = make_app(Answers(service, limits), metrics, token, limits.requests)
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="off", backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # the objects of torch and others stay: going through them again would make requests wait
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _stopped)  # the server has its own while it runs, and then raises the signal again
    listening.listen(BACKLOG)  # from now on, connections wait until the server takes them
    host, port = listening.getsockname()[:2]
    name = f"version {version.name}" if version.name else path
    log.info(
        "serve: %s, step %s, at http://%s:%d", name, f"{version.step:,}", f"[{host}]" if ":" in host else host, port
    )
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow(service, path, published, reload_seconds)) if published else None
        await server.serve([listening])
        if following is not None:
            following.cancel()
    service.close()
    gc.unfreeze()  # libraries report what is not collected at exit


def _stopped(number: int, _: object) -> None:
    log.info("serve: stopped by %s", signal.Signals(number).name)


def _listen(bind: str, host: str, port: int) -> socket.socket:
    """A socket that is bound, so that an address in use is said before anything is read."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise UserError(f"--bind: cannot listen at {bind}: {error.strerror}") from None
    return listening
