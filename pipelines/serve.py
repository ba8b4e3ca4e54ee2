"""The command `serve`: answers over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from twhin.pipelines.options import RunRootPath
from twhin_core.errors import UserError

LOOPBACK = "127.0.0.1:8080"


def serve(
    run_root: RunRootPath,
    bind: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Address to listen on; port 0 picks a free port. Other addresses than loopback require a token.",
        ),
    ] = LOOPBACK,
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the token that requests must send as their bearer.")
    ] = None,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Listen beyond loopback without a token.")
    ] = False,
    max_ids: Annotated[int, typer.Option(metavar="N", min=1, help="Ids or pairs that a request may have.")] = 256,
    max_k: Annotated[int, typer.Option(metavar="N", min=1, help="Answers that a request may ask for, per id.")] = 1000,
    max_requests: Annotated[int, typer.Option(metavar="N", min=1, help="Requests that are answered at once.")] = 256,
    reload_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How often to look for another version of a series.")
    ] = 10.0,
) -> None:
    """Answer queries over HTTP until SIGTERM: neighbors, recommendations, scores and vectors of new nodes.

    Uses the exported faiss indices where there are any. Of a series, serves the published version, and another one as
    soon as it is published, without dropping a request. docs/serving.md has the endpoints.
    """
    try:
        from twhin_core.serving import server
        from twhin_core.serving.limits import Limits
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn", "uvloop", "prometheus_client"):
            raise
        raise UserError(
            f"serve: needs the library {error.name}, which is not installed: pip install 'twhin[serve]'"
        ) from None
    server.serve(run_root, bind, token_file, allow_anonymous, Limits(max_ids, max_k, max_requests), reload_seconds)
