"""The HTTP interface, with its OpenAPI schema at `/openapi.json` and a page to try it at `/docs`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from twhin_core import __version__
from twhin_core.errors import Damaged, NotFound, StorageError, TwhinError, UserError, in_one_line
from twhin_core.progress import log
from twhin_core.serving import models
from twhin_core.serving.answers import Answers, TooMuch
from twhin_core.serving.limits import Guarded
from twhin_core.serving.metrics import Measured, Metrics

STATUS = [(NotFound, 404), (TooMuch, 413), (Damaged, 500), (StorageError, 500), (UserError, 422), (TwhinError, 500)]
"""Of errors, the first that fits."""
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": models.Error, "description": "The token is missing or wrong."},
    404: {"model": models.Error, "description": "There is no such table, relation or id; names those that are near."},
    413: {"model": models.Error, "description": "More than a request may ask for."},
    422: {"model": models.Error, "description": "A wrong request."},
    500: {"model": models.Error, "description": "A fault of the server."},
    503: {"model": models.Error, "description": "Too many requests at once."},
}


def make_app(answers: Answers, metrics: Metrics, token: str | None, most_requests: int) -> ASGIApp:
    """The app, guarded and measured."""
    app = FastAPI(title="TwHIN", version=__version__, responses=ERRORS, docs_url="/docs", redoc_url=None)
    _add_endpoints(app, answers, metrics)
    _add_error_handlers(app)
    return Measured(Guarded(app, token, most_requests), metrics)


def _add_endpoints(app: FastAPI, answers: Answers, metrics: Metrics) -> None:
    @app.get("/neighbors", response_model=models.FoundAnswer)
    async def get_neighbors(asked: Annotated[models.NeighborsRequest, Query()]) -> Response:
        """The nodes that score highest for each of some nodes."""
        return _json(await answers.neighbors(asked))

    @app.post("/neighbors", response_model=models.FoundAnswer)
    async def post_neighbors(asked: models.NeighborsRequest) -> Response:
        """The nodes that score highest for each of some nodes."""
        return _json(await answers.neighbors(asked))

    @app.get("/recommend", response_model=models.FoundAnswer)
    async def get_recommend(asked: Annotated[models.RecommendQuery, Query()]) -> Response:
        """The best candidates of each of some users, without those that it has an edge to."""
        return _json(await answers.recommend(models.RecommendRequest(**asked.model_dump())))

    @app.post("/recommend", response_model=models.FoundAnswer)
    async def post_recommend(asked: models.RecommendRequest) -> Response:
        """The best candidates of each of some users, without those that it has an edge to."""
        return _json(await answers.recommend(asked))

    @app.get("/score", response_model=models.ScoreAnswer)
    async def get_score(asked: Annotated[models.ScoreQuery, Query()]) -> Response:
        """The model's score of an edge."""
        pairs = [models.Pair(lhs=asked.lhs, rhs=asked.rhs)]
        given = asked.model_dump(exclude={"lhs", "rhs"})
        return _json(await answers.score(models.ScoreRequest(pairs=pairs, **given)))

    @app.post("/score", response_model=models.ScoreAnswer)
    async def post_score(asked: models.ScoreRequest) -> Response:
        """The model's score of edges."""
        return _json(await answers.score(asked))

    @app.post("/embed", response_model=models.EmbedAnswer)
    async def post_embed(asked: models.EmbedRequest) -> Response:
        """Vectors of nodes that were not trained, from their edges to nodes that were."""
        return _json(await answers.embed(asked))

    @app.get("/healthz", response_model=models.Health)
    async def get_healthz() -> Response:
        """Whether the server answers, and which version; needs no token."""
        return _json(answers.health())

    @app.get("/metrics", response_class=PlainTextResponse)
    async def get_metrics() -> Response:
        """Counts of requests, errors and reloads, and latencies, in the format of Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _json(answer: BaseModel) -> Response:
    """Made here, because FastAPI would check the answer against its model again."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(TwhinError)
    async def refuse(_: Request, error: TwhinError) -> Response:
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        if status >= 500:
            log.error("serve: %s", error)
        return _error(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def refuse_request(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _error(422, f"the body is not JSON: {first['ctx']['error']}")
        if first["type"] == "value_error":
            return _error(422, str(first["ctx"]["error"]))
        where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body"))
        return _error(422, f"{where}: {first['msg']}" if where else f"the body is not valid: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def refuse_path(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, error.detail)

    @app.exception_handler(Exception)
    async def fail(_: Request, __: Exception) -> Response:
        return _error(500, "the server failed; its log says why")


def _error(status: int, reason: str) -> Response:
    return JSONResponse({"error": in_one_line(reason)}, status)
