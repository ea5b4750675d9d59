"""The paths of the HTTP port: metrics and probes for operators, and OpenAI's API under /v1."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from cadenza.server.http.calls import Calls, Respond
from cadenza.server.http.chat import Chats
from cadenza.server.http.completions import Completions
from cadenza.server.http.models import Models
from cadenza.server.http.openapi import PATH as OPENAPI_PATH
from cadenza.server.http.openapi import openapi
from cadenza.server.models import ModelTable


@dataclasses.dataclass(frozen=True, slots=True)
class OpenAiApi:
    """What OpenAI's API is made of."""

    models: ModelTable
    calls: Calls
    version: str
    """The server's."""


def http_app(
    registry: CollectorRegistry,
    is_ready: Callable[[], bool],
    api: OpenAiApi | None,
    allowed_origins: Sequence[str] = (),
) -> Starlette:
    """All paths; without `api` those for operators alone. Pages of `allowed_origins` may call them."""
    routes = _operators_routes(registry, is_ready)
    if api is not None:
        routes += _api_routes(api)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )
    return Starlette(
        routes=routes,
        middleware=[cors] if allowed_origins else [],
        exception_handlers={HTTPException: _refuse},
    )


def _operators_routes(registry: CollectorRegistry, is_ready: Callable[[], bool]) -> list[BaseRoute]:
    """/healthz is 200 while the process lives; /readyz and /health are 200 when `is_ready`, else 503."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n") if is_ready() else PlainTextResponse("not ready\n", 503)

    return [
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/health", readyz),
    ]


def _api_routes(api: OpenAiApi) -> list[BaseRoute]:
    def route(path: str, method: str, respond: Respond) -> Route:
        return Route(path, api.calls.endpoint(path, respond), methods=[method])

    description = openapi(api.version)

    async def describe(_: Request) -> Response:
        return JSONResponse(description)

    models = Models(api.models)
    return [
        route("/v1/models", "GET", models.list),
        route("/v1/models/{model}", "GET", models.get),
        route("/v1/completions", "POST", Completions(api.models).respond),
        route("/v1/chat/completions", "POST", Chats(api.models).respond),
        Route(OPENAPI_PATH, describe),
    ]


async def _refuse(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself: unknown paths and wrong methods."""
    if not isinstance(error, HTTPException):
        raise error
    advice = f"GET {OPENAPI_PATH} describes the paths there are" if error.status_code == 404 else ""
    path = f"{request.method} {request.url.path[:80]}"
    content: dict[str, Any] = {
        "message": f"{path}: {error.detail}; {advice or 'use a method that the header allow names'}",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found" if error.status_code == 404 else "method_not_allowed",
    }
    return JSONResponse({"error": content}, error.status_code, headers=error.headers)
