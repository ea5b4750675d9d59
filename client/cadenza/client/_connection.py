"""The channels of one client, made with its first call: until then nothing of gRPC runs, so forks are safe.

Threads share a `Connection`. `AsyncConnection` is its twin for one event loop.
"""

import dataclasses
import os
import threading
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cadenza.client._channel import ChannelOptions, balanced_options, plain_options
from cadenza.client._settings import Settings
from cadenza.client.errors import Unusable
from cadenza.v1.completion_pb2_grpc import CompletionServiceStub

if TYPE_CHECKING:
    from cadenza.v1.completion_pb2_grpc import CompletionServiceAsyncStub

_CHECK_METHOD: Final = "/grpc.health.v1.Health/Check"

_READ_BY_CALLER: Final = ("SingleThreadedUnaryStream", 1)
"""gRPC Python's own channel option: the thread that iterates a stream reads it, and no other.

So Ctrl-C meets a wait that gRPC has prepared for it. Otherwise it can come while the iterating thread takes
the lock it shares with gRPC's, which then stays locked: no call on the channel ends any more.
"""
_FORK_SUPPORT: Final = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in ("1", "true", "yes")
"""As gRPC itself reads it, when it is imported."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stubs:
    """What a synchronous client calls."""

    completions: CompletionServiceStub
    """On whatever address serves."""
    balanced_check: "grpc.UnaryUnaryMultiCallable[StringValue, Int32Value]"
    """Health, on whatever address serves."""
    check: "grpc.UnaryUnaryMultiCallable[StringValue, Int32Value]"
    """Health of a server, ill or not."""


@dataclasses.dataclass(frozen=True, slots=True)
class AsyncStubs:
    """What an asyncio client calls: the twin of `Stubs`."""

    completions: "CompletionServiceAsyncStub"
    balanced_check: "grpc.aio.UnaryUnaryMultiCallable[StringValue, Int32Value]"
    check: "grpc.aio.UnaryUnaryMultiCallable[StringValue, Int32Value]"


class Connection:
    """Opens the channels of a synchronous client and closes them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opening = threading.Lock()
        self._use = _Use()
        self._channels: list[grpc.Channel] = []
        self._stubs: Stubs | None = None

    def stubs(self) -> Stubs:
        """What to call. Raises Unusable after close, and in a forked child that cannot use the channels."""
        self._use.check()
        if self._stubs is None:
            with self._opening:
                self._stubs = self._stubs or self._opened()
        return self._stubs

    def close(self) -> None:
        """Cancels the calls that still run."""
        with self._opening:
            self._use.end()
            for channel in self._channels:
                channel.close()

    def _opened(self) -> Stubs:
        self._use.begin()
        balanced = self._channel([*balanced_options(self._settings), _READ_BY_CALLER])
        plain = self._channel(plain_options(self._settings))
        self._channels += balanced, plain
        balanced, plain = (
            grpc.intercept_channel(one, *self._settings.interceptors) for one in (balanced, plain)
        )
        return Stubs(CompletionServiceStub(balanced), _check_on(balanced), _check_on(plain))

    def _channel(self, options: ChannelOptions) -> grpc.Channel:
        settings = self._settings
        if settings.tls is None:
            return grpc.insecure_channel(settings.target, options=options)
        return grpc.secure_channel(settings.target, settings.tls.credentials(), options=options)


class AsyncConnection:
    """Opens the channels of an asyncio client and closes them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._use = _Use()
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: AsyncStubs | None = None

    def stubs(self) -> AsyncStubs:
        """What to call. Raises Unusable after close, and in a forked child that cannot use the channels."""
        self._use.check()
        if self._stubs is None:
            self._stubs = self._opened()
        return self._stubs

    async def close(self) -> None:
        """Cancels the calls that still run."""
        self._use.end()
        for channel in self._channels:
            await channel.close()

    def _opened(self) -> AsyncStubs:
        self._use.begin()
        balanced = self._channel(balanced_options(self._settings))
        plain = self._channel(plain_options(self._settings))
        self._channels += balanced, plain
        return AsyncStubs(CompletionServiceStub(balanced), _async_check_on(balanced), _async_check_on(plain))

    def _channel(self, options: ChannelOptions) -> grpc.aio.Channel:
        settings, interceptors = self._settings, self._settings.interceptors
        if settings.tls is None:
            return grpc.aio.insecure_channel(settings.target, options=options, interceptors=interceptors)
        credentials = settings.tls.credentials()
        return grpc.aio.secure_channel(
            settings.target, credentials, options=options, interceptors=interceptors
        )


class _Use:
    """Whether the channels may be used: not after close, nor across a fork that gRPC did not take part in."""

    def __init__(self) -> None:
        self._process: int | None = None
        self._is_over = False

    def begin(self) -> None:
        self._process = os.getpid()

    def end(self) -> None:
        self._is_over = True

    def check(self) -> None:
        if self._is_over:
            raise _unusable("CLIENT_CLOSED", "the client was closed; make another")
        if not _FORK_SUPPORT and self._process not in (None, os.getpid()):
            raise _unusable(
                "CLIENT_FORKED",
                "the client was used before this process was forked: use it after the fork only, "
                "or set GRPC_ENABLE_FORK_SUPPORT=1 before Python starts",
            )


def _unusable(reason: str, message: str) -> Unusable:
    return Unusable(message, code=grpc.StatusCode.FAILED_PRECONDITION, reason=reason)


def _check_on(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[StringValue, Int32Value]":
    return channel.unary_unary(
        _CHECK_METHOD,
        request_serializer=StringValue.SerializeToString,
        response_deserializer=Int32Value.FromString,
    )


def _async_check_on(channel: grpc.aio.Channel) -> "grpc.aio.UnaryUnaryMultiCallable[StringValue, Int32Value]":
    return channel.unary_unary(
        _CHECK_METHOD,
        request_serializer=StringValue.SerializeToString,
        response_deserializer=Int32Value.FromString,
    )
