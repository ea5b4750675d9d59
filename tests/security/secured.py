"""How tests secure a live server, and call it with or without what it asks for."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from tests.client.certificates import Authority, Pair
from tests.server.live import Live, Refusal, create, read_error

from cadenza.v1 import completion_pb2_grpc as pb_grpc

ALICE = "a" * 32
"""The token in the fixture `token_file`."""
FAST: dict[str, Any] = {"credentials_poll_seconds": 0.02}


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that show a token."""
    return (("authorization", f"Bearer {token}"),)


def replace(path: Path, text: str) -> None:
    """Writes a file as whole as Kubernetes and careful people do: beside it, then renamed."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


class Installed:
    """A certificate and key where a server looks for them, and the authority of its clients."""

    def __init__(self, folder: Path, pair: Pair, client_ca: Path | None = None) -> None:
        folder.mkdir()
        self.certificate, self.key, self.client_ca = (
            folder / name for name in ("tls.crt", "tls.key", "ca.crt")
        )
        self.put(pair)
        self._is_mutual = client_ca is not None
        if client_ca is not None:
            shutil.copy(client_ca, self.client_ca)

    def put(self, pair: Pair) -> None:
        """Another certificate takes its place, in two steps, as most tools do it."""
        shutil.copy(pair.cert, self.certificate)
        shutil.copy(pair.key, self.key)

    @property
    def settings(self) -> dict[str, Any]:
        mutual = {"tls_client_ca": self.client_ca} if self._is_mutual else {}
        return {"tls_certificate": self.certificate, "tls_key": self.key, **mutual, **FAST}


@contextlib.asynccontextmanager
async def secure_channel(
    live: Live, authority: Authority, pair: Pair | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own that trusts an authority, and shows a certificate where one is given."""
    key, certificate = pair.content() if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.ca.cert.read_bytes(), key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"localhost:{live.ports.grpc}", credentials, options) as channel:
        yield channel


async def text(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> str:
    """What a plain request gets; "bcd" is right."""
    stub: Any = pb_grpc.CompletionServiceStub(channel)
    response = await stub.CreateCompletion(create("a", max_tokens=3), metadata=metadata)
    answered: str = response.choices[0].text
    return answered


async def status(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.StatusCode:
    """How a plain request ends."""
    try:
        await text(channel, metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def refusal(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> Refusal:
    """The typed error that a plain request gets."""
    try:
        await text(channel, metadata)
    except grpc.aio.AioRpcError as error:
        return read_error(error)
    raise AssertionError("the call was served")


async def clients_logged(lines: Sequence[Mapping[str, Any]], number: int) -> list[Any]:
    """Who asked, by the captured log lines of so many calls; a line comes after the answer."""
    return [line.get("client") for line in await calls_logged(lines, number)]


async def calls_logged(lines: Sequence[Mapping[str, Any]], number: int) -> list[Mapping[str, Any]]:
    """The captured log lines of so many calls, the SDK's health watches aside."""

    def found() -> list[Mapping[str, Any]]:
        return [line for line in lines if line["event"] == "call" and line["method"] != "Watch"]

    async with asyncio.timeout(10):
        while len(found()) < number:  # noqa: ASYNC110 the log tells nobody
            await asyncio.sleep(0)
    return found()


def reloads(kind: str, result: str) -> str:
    """The series that counts files read anew."""
    return f'cadenza_credential_reloads_total{{kind="{kind}",result="{result}"}}'
