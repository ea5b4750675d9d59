"""Bearer tokens as clients meet them, and a file of tokens that changes under a running server."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from tests.security.secured import (
    ALICE,
    FAST,
    bearer,
    calls_logged,
    clients_logged,
    refusal,
    reloads,
    replace,
    status,
    text,
)
from tests.server.live import Live, live_server, read_error, rest, stream
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.errors import CredentialError
from cadenza.server.rpc.tokens import read_tokens

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
BOB = "b" * 32


@pytest.fixture
async def live(artifact: Path, runner: ScriptedRunner, token_file: Path) -> AsyncIterator[Live]:
    async with live_server(artifact, runner, token_file=token_file, **FAST) as one:
        yield one


async def test_a_call_with_a_token_is_served(live: Live) -> None:
    assert await text(live.channel, bearer(ALICE)) == "bcd"
    assert await text(live.channel, (("authorization", f"bearer  {ALICE} "),)) == "bcd"


async def test_a_call_without_a_token_is_told_how_to_show_one(live: Live) -> None:
    error = await refusal(live.channel, (("x-request-id", "r-1"),))
    assert (error.code, error.reason) == (UNAUTHENTICATED, "TOKEN_MISSING")
    assert "authorization: Bearer TOKEN" in error.message
    assert await live.metric('cadenza_requests_rejected_total{reason="TOKEN_MISSING"}') == 1
    await live.until('grpc_server_handled_total{grpc_code="UNAUTHENTICATED"', 1)
    assert live.runner.begun == 0


@pytest.mark.parametrize(
    "values",
    [
        [f"Bearer {BOB}"], [f"Bearer {ALICE[:-1]}"], ["Bearer "], [ALICE], [f"Basic {ALICE}"],
        [f"Bearer {ALICE}"] * 2,
    ],
    ids=["unknown", "too short", "empty", "no scheme", "other scheme", "two"],
)  # fmt: skip
async def test_what_is_no_valid_token_is_refused_and_never_quoted(live: Live, values: list[str]) -> None:
    with structlog.testing.capture_logs() as lines:
        error = await refusal(live.channel, tuple(("authorization", value) for value in values))
        (line,) = await calls_logged(lines, 1)
    assert (error.code, error.reason) == (UNAUTHENTICATED, "TOKEN_INVALID")
    assert "aaaa" not in f"{error.message} {lines}"
    assert line["reason"] == "TOKEN_INVALID"


async def test_a_refused_call_is_refused_before_its_request_is_looked_at(live: Live) -> None:
    channel: Any = live.channel
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/cadenza.v1.CompletionService/CreateCompletion")(b"\xff\xff\xff")
    assert read_error(raised.value).reason == "TOKEN_MISSING"


async def test_the_tokens_name_is_the_client_whatever_the_metadata_claim(live: Live) -> None:
    with structlog.testing.capture_logs() as lines:
        await text(live.channel, (*bearer(ALICE), ("cadenza-client-id", "somebody-else")))
        assert await clients_logged(lines, 1) == ["alice"]


async def test_tokens_rotate_without_a_gap(live: Live, token_file: Path) -> None:
    replace(token_file, f"alice {ALICE}\nalice {BOB}\n")
    await live.until(reloads("tokens", "loaded"), 1)
    assert [await status(live.channel, bearer(one)) for one in (ALICE, BOB)] == [grpc.StatusCode.OK] * 2
    replace(token_file, f"# the new one alone\n\nalice {BOB}\n")
    await live.until(reloads("tokens", "loaded"), 2)
    assert await status(live.channel, bearer(ALICE)) == UNAUTHENTICATED
    assert await status(live.channel, bearer(BOB)) == grpc.StatusCode.OK


async def test_a_stream_goes_on_when_its_token_is_withdrawn(live: Live, token_file: Path) -> None:
    live.runner.hold()
    call = live.stub.StreamCompletion(stream("a", max_tokens=3), metadata=bearer(ALICE))
    live.runner.allow(1)
    await call.read()
    replace(token_file, f"bob {BOB}\n")
    await live.until(reloads("tokens", "loaded"), 1)
    live.runner.allow()
    assert "".join(part.choices[0].text for part in await rest(call)) == "cd"
    assert await status(live.channel, bearer(ALICE)) == UNAUTHENTICATED


async def test_a_broken_file_keeps_the_tokens_that_were_read(live: Live, token_file: Path) -> None:
    for number, broken in enumerate(("", "alice", "alice sha256:abc", "\x00\xff"), 1):
        replace(token_file, broken)
        await live.until(reloads("tokens", "failed"), number)
        assert await status(live.channel, bearer(ALICE)) == grpc.StatusCode.OK


def test_a_file_may_hold_digests_comments_and_several_tokens_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    path.write_text(
        f"# two of ours\nteam-search   {ALICE}\n\n  team-search sha256:{digest}\nbatch {'c' * 32}\n"
    )
    table = read_tokens(path)
    assert [table.name_of(one) for one in (ALICE, BOB, "c" * 32, digest, "")] == [
        "team-search", "team-search", "batch", None, None,
    ]  # fmt: skip
    assert ALICE not in repr(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "names 0 tokens; it must name 1 to 1000"),
        ("# nothing\n", "names 0 tokens"),
        ("".join(f"n{i} {i:032}\n" for i in range(1001)), "names 1001 tokens"),
        (f"\n{ALICE}\n", "line 2 is neither NAME TOKEN nor NAME sha256:HEX"),
        (f"alice {ALICE} {BOB}", "line 1 is neither"),
        ("alice sha256:12ab", "line 1 is neither"),
        (f"älice {ALICE}", "line 1 is neither"),
        (f"{'n' * 129} {ALICE}", "line 1 is neither"),
        ("alice short", "line 1: the token of alice has 5 characters; 16 is the least"),
        ("x" * (1 << 20) + "y", "is larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_list_of_tokens_is_refused_by_line(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(CredentialError, match=message) as raised:
        read_tokens(path)
    assert ALICE not in str(raised.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"alice \xff\xfe")
    with pytest.raises(CredentialError, match="is not UTF-8 text"):
        read_tokens(path)
