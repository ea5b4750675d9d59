"""Answers on their way to the client: JSON at once, or server-sent events as they come."""

from typing import Any

import pydantic_core
from starlette.types import Send

EVENTS = "text/event-stream"
_DONE = b"data: [DONE]\n\n"


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8, null for numbers that JSON does not have."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def event(data: bytes) -> bytes:
    """One server-sent event (HTML standard, section 9.2); JSON has no line breaks in it."""
    return b"data: " + data + b"\n\n"


class Answer:
    """The answer to one call. Sending waits while the client takes nothing, so no answer piles up."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0
        """0 while nothing was sent."""

    async def whole(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Sends JSON, and nothing after it."""
        body = to_json(content)
        length = {"content-length": str(len(body)), **(headers or {})}
        await self._begin(status, "application/json", length)
        await self._send({"type": "http.response.body", "body": body})

    async def events(self, data: bytes) -> None:
        """Sends events, as `event` writes them."""
        await self._send_events(data, more=True)

    async def end_events(self, data: bytes) -> None:
        """Sends the last events and what OpenAI's streams end with."""
        await self._send_events(data + _DONE, more=False)

    async def end_broken(self, data: bytes) -> None:
        """Sends a last event to a stream that has no regular end."""
        await self._send({"type": "http.response.body", "body": data})

    async def _send_events(self, data: bytes, *, more: bool) -> None:
        if not self.status:
            # Proxies are asked to pass every event on at once.
            await self._begin(200, EVENTS, {"cache-control": "no-cache", "x-accel-buffering": "no"})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _begin(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        self.status = status
        lines = {"content-type": content_type, "x-request-id": self._request_id, **headers}
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in lines.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
