"""Limits on what comes before a request's body, which uvicorn leaves open."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 64 << 10
"""Bytes of the request's line and headers."""


class BoundedHeads(HttpToolsProtocol):
    """One connection, which ends where a request's head is too long or too slow."""

    head_seconds = 30.0
    """From the connection, or a later request's first byte, to the end of the head."""

    _head_bytes = 0
    """Received since the last head or piece of a body."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the loop, with at most 256 KiB."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response(f"The request's line and headers are longer than {LARGEST_HEAD} bytes.")

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._stop_timer()
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._head_bytes = 0
        super().on_message_complete()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(self.head_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
