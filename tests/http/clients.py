"""How tests reach the HTTP port: by OpenAI's clients, or byte by byte."""

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import openai
from tests.server.live import Live


def base_url(live: Live) -> str:
    """What OpenAI's clients are pointed at."""
    return f"http://127.0.0.1:{live.ports.http}/v1"


def error_of(error: openai.APIStatusError) -> dict[str, Any]:
    """The error's object, with the status."""
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    return {"status": error.status_code, **error.body}


@dataclasses.dataclass
class Raw:
    """One connection that a test writes to by itself."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Sends a whole request."""
        lines = {"host": "localhost", "content-length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of an answer with a length."""
        status = int((await self.reader.readline()).split()[1])
        headers = {}
        while line := (await self.reader.readline()).decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers, json.loads(await self.reader.readexactly(int(headers["content-length"])))

    def leave(self) -> None:
        """Resets the connection."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connect(live: Live, *, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """A new connection. `receive_buffer` is how many bytes the kernel may keep for it, about."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", live.ports.http))
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def body(**fields: Any) -> bytes:
    """A request's body: a prompt of one letter, unless it says otherwise."""
    return json.dumps({"prompt": "a", **fields}).encode()
