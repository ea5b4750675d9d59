"""What is known of the call being answered, for its handler, its log line and its metrics."""

import contextvars
import dataclasses
import urllib.parse
import uuid
from collections.abc import Iterable

from cadenza.server.errors import InvalidRequestError, Reason, quote

REQUEST_ID_KEY = "x-request-id"
CLIENT_ID_KEY = "cadenza-client-id"
_LONGEST_ID = 128


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
