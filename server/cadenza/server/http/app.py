"""The paths of the HTTP port: metrics and probes for operators, and OpenAI's API under /v1."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

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
) -> ASGIApp:
    """All paths; without `api` those for operators alone. Pages of `allowed_origins` may call them."""
    calls = [] if api is None else _call_routes(api)
    others = _operators_routes(registry, is_ready)
    if api is not None:
        others.append(_description_route(api))
    rest = Starlette(routes=[*others, *calls], exception_handlers={HTTPException: _refuse})
    app = _CallsFirst(calls, rest)
    if not allowed_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )


class _CallsFirst:
    """Hands calls of the API to their endpoints, which answer whatever happens, and the rest to `rest`.

    Starlette's own middleware would handle every event of every stream once more.
    """

    def __init__(self, calls: Sequence[BaseRoute], rest: ASGIApp) -> None:
        self._calls = calls
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server."""
        for route in self._calls:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                await route.handle(scope, receive, send)
                return
        await self._rest(scope, receive, send)


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


def _call_routes(api: OpenAiApi) -> list[BaseRoute]:
    def route(path: str, method: str, respond: Respond) -> Route:
        return Route(path, api.calls.endpoint(path, respond), methods=[method])

    models = Models(api.models)
    return [
        route("/v1/models", "GET", models.list),
        route("/v1/models/{model}", "GET", models.get),
        route("/v1/completions", "POST", Completions(api.models).respond),
        route("/v1/chat/completions", "POST", Chats(api.models).respond),
    ]


def _description_route(api: OpenAiApi) -> BaseRoute:
    description = openapi(api.version)

    async def describe(_: Request) -> Response:
        return JSONResponse(description)

    return Route(OPENAPI_PATH, describe)


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
