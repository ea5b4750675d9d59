"""The HTTP port. It runs in the server's own loop, so what it reads needs no lock."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from cadenza.server.errors import StartupError
from cadenza.server.http.heads import BoundedHeads

_SHUTDOWN_SECONDS = 5
"""How long clients may take to read the ends of their answers."""


class HttpServer:
    """Serves an application until it is stopped."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedHeads,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        self._server = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the true port. Raises StartupError where the port cannot be had."""
        listener = _listen(host, port)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        true_port: int = listener.getsockname()[1]
        return true_port

    async def stop(self) -> None:
        """Closes the port; requests being answered get some seconds to end."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Uvicorn(uvicorn.Server):
    """Leaves the process's signals to the one who owns the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4 too, and means 0.0.0.0 where there is no IPv6."""
    both = host == "::" and socket.has_dualstack_ipv6()
    if host == "::" and not both:
        host = "0.0.0.0"  # noqa: S104 every address is what was asked for
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {host} port {port} for HTTP: {error.strerror}; choose another --http-port"
        ) from error
