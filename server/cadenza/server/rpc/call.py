"""What is known of the call being answered, for its handler, its log lines, its spans and its metrics."""

import contextvars
import dataclasses
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from typing import Protocol

from cadenza.server.account import Account
from cadenza.server.errors import InvalidRequestError, Reason, quote

REQUEST_ID_KEY = "x-request-id"
CLIENT_ID_KEY = "cadenza-client-id"
_LONGEST_ID = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Door:
    """Where calls of one method come in, and what logs and spans say of them."""

    method: str
    """In log lines."""
    span: str
    """The name of their spans."""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of their spans, by OpenTelemetry's conventions."""
    is_traced: bool = True

    @classmethod
    def of_grpc(cls, service: str, method: str, *, is_traced: bool) -> "Door":
        """A method of a service, given by its full name."""
        name = f"{service}/{method}"
        return cls(method, name, {"rpc.system.name": "grpc", "rpc.method": name}, is_traced)

    @classmethod
    def of_http(cls, method: str, path: str) -> "Door":
        """GET or POST of a path, parameters as names."""
        return cls(path, f"{method} {path}", {"http.request.method": method, "http.route": path})


class CallSpan(Protocol):
    """What a trace says of one call."""

    trace_id: str
    """32 hexadecimal digits."""

    def end(self, call: "Call", now: float) -> None:
        """The call has ended, `now` on the engine's clock."""
        ...


@dataclasses.dataclass(slots=True)
class Call:
    """One call. `arrival` is in seconds on the engine's clock; `log` goes into the line that ends it."""

    request_id: str
    arrival: float
    code: str = "UNKNOWN"
    """The status it ended with."""
    log: dict[str, object] = dataclasses.field(default_factory=dict)
    client: str | None = None
    """Who asks, where a token or a certificate proves it."""
    door: Door = Door("unknown", "unknown", is_traced=False)
    http_status: int | None = None
    """What it was answered with, where it came by HTTP."""
    is_chat: bool = False
    """Whether what is to be completed is a conversation."""
    accounts: list[Account] = dataclasses.field(default_factory=list)
    """Of its requests that the engine took."""
    span: CallSpan | None = None


current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("current_call")


def request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's x-request-id where it is 1 to 128 printable ASCII characters, else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _is_fit(value):
            return value
    return uuid.uuid4().hex


def certificate_name(identities: Iterable[bytes] | None) -> str | None:
    """The first name that a client's certificate gives; None where there is no certificate.

    `identities` are its subject alternative names, or its common name where it has none. Escapes what is not
    printable ASCII, and cuts it to 128 characters.
    """
    for identity in identities or ():
        return identity.decode(errors="replace").encode("unicode_escape").decode()[:_LONGEST_ID]
    return None


def client_id(metadata: Iterable[tuple[str, str | bytes]], peer: str) -> str:
    """Whom the caller says it is: its cadenza-client-id, else the host of its address.

    Raises InvalidRequestError (INVALID_CLIENT_ID) where it is not 1 to 128 printable ASCII characters.
    """
    for key, value in metadata:
        if key == CLIENT_ID_KEY:
            if not (isinstance(value, str) and _is_fit(value)):
                raise InvalidRequestError(
                    Reason.INVALID_CLIENT_ID,
                    f"metadata.{CLIENT_ID_KEY}",
                    f"the metadata's {CLIENT_ID_KEY} is {quote(value)}; it must be 1 to {_LONGEST_ID} "
                    "printable ASCII characters, or absent",
                )
            return value
    return _host(peer)


def _host(peer: str) -> str:
    """The host of an address as gRPC writes it: ipv4:10.0.0.7:50144, ipv6:%5B::1%5D:50144, unix:PATH."""
    kind, _, address = urllib.parse.unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return address.rpartition(":")[0].strip("[]")


def _is_fit(value: str) -> bool:
    return 0 < len(value) <= _LONGEST_ID and value.isascii() and value.isprintable()
