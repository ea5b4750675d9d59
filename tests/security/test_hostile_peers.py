"""Peers that do not speak as gRPC's libraries do: the server answers or drops them, and goes on."""

import asyncio
import itertools
import struct
from pathlib import Path

import pytest
from tests.security.secured import ALICE, FAST, bearer, text
from tests.server.live import Live, live_server
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.rpc import tolerant_server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS, DATA = 4, 1, 0
END_STREAM, END_HEADERS = 1, 4
METHOD = b"/cadenza.v1.CompletionService/ListModels"


@pytest.mark.parametrize("path", [b"/cadenza.v1.CompletionService/\xff\xfe", b"\xc3\x28", b"/"])
async def test_a_method_whose_name_is_no_text_is_refused_and_the_server_goes_on(
    artifact: Path, runner: ScriptedRunner, path: bytes
) -> None:
    async with live_server(artifact, runner) as live:
        assert b"no such method" in await _call(live, path)
        await live.still_serves()


async def test_such_a_name_is_answered_without_a_token_as_any_other(
    artifact: Path, runner: ScriptedRunner, token_file: Path
) -> None:
    async with live_server(artifact, runner, token_file=token_file, **FAST) as live:
        assert b"send the metadata" in await _call(live, b"/\xff")
        assert b"use a current one" in await _call(live, METHOD, ((b"authorization", b"Bearer \xff\xfe"),))
        assert b"use a current one" in await _call(
            live, METHOD, ((b"authorization", b"Bearer \xed\xa0\x80"),)
        )
        assert await text(live.channel, bearer(ALICE)) == "bcd"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *itertools.product(
            (b"x-request-id", b"cadenza-client-id", b"user-agent"), (b"\xff\xfe", b"\xed\xa0\x80", b"\x01")
        ),
        *((b"grpc-timeout", value) for value in (b"\xff", b"99999999H", b"0n", b"-1S", b"1X")),
        *((b"grpc-encoding", value) for value in (b"\xff", b"nosuch", b"gzip")),
        (b"k-bin", b"!!!"),
    ],
)
async def test_metadata_that_no_library_sends_harm_nobody(live: Live, key: bytes, value: bytes) -> None:
    await _call(live, METHOD, ((key, value),))
    await live.still_serves()


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x00\xa5", b"GET / HTTP/1.1\r\n\r\n", PREFACE + b"\xff" * 64]
)
async def test_bytes_that_are_no_grpc_are_dropped(live: Live, garbage: bytes) -> None:
    await _exchange(live.ports.grpc, garbage)
    await live.still_serves()


async def test_should_grpcs_loop_break_all_the_same_the_server_says_so_and_is_to_be_stopped(
    artifact: Path, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = asyncio.Event()

    async def broken(_: object) -> None:
        await loaded.wait()
        raise UnicodeError("as from a name that grpc decodes")

    monkeypatch.setattr(tolerant_server._Core, "_request_call", broken)
    async with live_server(artifact, runner) as live:
        loaded.set()
        async with asyncio.timeout(10):
            await live.server.engine_failed.wait()
        assert (await live.get("/readyz"))[0] == 503


async def _call(live: Live, path: bytes, metadata: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """What the server sends for a call of an empty message, as it comes."""
    fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost"),
        (b"te", b"trailers"), (b"content-type", b"application/grpc"), *metadata,
    )  # fmt: skip
    headers = b"".join(
        b"\x00" + bytes([len(key)]) + key + bytes([len(value)]) + value for key, value in fields
    )
    return await _exchange(
        live.ports.grpc,
        PREFACE
        + _frame(SETTINGS, 0, 0, b"")
        + _frame(HEADERS, END_HEADERS, 1, headers)
        + _frame(DATA, END_STREAM, 1, bytes(5)),
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


async def _exchange(port: int, sent: bytes) -> bytes:
    """What comes until the call has its trailers, or the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    received = b""
    try:
        async with asyncio.timeout(10):
            while b"grpc-status" not in received and (some := await reader.read(1 << 16)):
                received += some
    finally:
        writer.close()
    return received
