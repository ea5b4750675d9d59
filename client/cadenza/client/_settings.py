"""How a client is set up: arguments, then the environment, then defaults.

| variable | option |
| --- | --- |
| CADENZA_TARGET | `target` |
| CADENZA_MODEL, CADENZA_TIMEOUT, CADENZA_CLIENT_ID, CADENZA_MAX_RETRIES | the option of that name |
| CADENZA_TLS | `tls`: 1 or 0 |
| CADENZA_TLS_CA_FILE, _CERT_FILE, _KEY_FILE, _SERVER_NAME | the field of `Tls`; any of them turns TLS on |
| CADENZA_TOKEN, CADENZA_TOKEN_FILE | `token`: itself, or the file that holds it |
| CADENZA_PLAINTEXT_TOKEN | `plaintext_token`: 1 or 0 |
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypedDict

import pydantic

from cadenza.client._options import (
    CallOptions,
    HeaderText,
    Retries,
    Seconds,
    Text,
    checker,
    invalid_option,
    refused,
)
from cadenza.client._tls import Tls, TlsContent
from cadenza.client._token import Token, TokenFile

DEFAULT_TARGET: Final = "localhost:8500"
DEFAULT_TIMEOUT: Final = 60.0
"""Seconds."""
DEFAULT_RETRIES: Final = 4
_DEFAULT_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Log-probabilities of a long completion exceed gRPC's 4 MiB."""
_DEFAULT_KEEPALIVE: Final = 20.0
"""Seconds; the server allows a ping every 10."""


class ClientOptions(TypedDict, total=False):
    """Options of a client. The first four hold for calls that give none of their own."""

    model: Text | None
    """The model's name; may be absent where the server has one model."""
    timeout: Seconds | None
    """Seconds for a call in all, its retries included; inf waits without end."""
    client_id: HeaderText | None
    """Between whom the server shares its work fairly; the address it sees where absent."""
    max_retries: Retries | None
    """How often a call that may succeed later is tried again."""
    tls: bool | Tls | None
    """True for TLS with gRPC's public authorities; a `Tls` for others, or for a certificate of one's own."""
    token: Token | None
    """The bearer token; a Path is a file that may rotate. A callable must not block for long."""
    plaintext_token: bool | None
    """Send the token without TLS to other hosts too: for networks that encrypt by themselves."""
    interceptors: Sequence[Any] | None
    """gRPC's client interceptors: of `grpc` for Client, of `grpc.aio` for AsyncClient."""
    max_message_bytes: Annotated[int, pydantic.Field(ge=1, lt=2**31)] | None
    """Most bytes of a message, sent or received."""
    keepalive: Annotated[float, pydantic.Field(ge=0.001)] | None
    """Seconds without a byte after which a connection is pinged, and again until it counts as dead.

    The server closes connections that ping more often than every 10 seconds. inf turns it off."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A client's options, checked and complete."""

    target: str
    defaults: Mapping[str, Any]
    """Options of calls that give none of their own."""
    tls: TlsContent | None
    token: Token | None
    interceptors: tuple[Any, ...]
    max_message_bytes: int
    keepalive: float
    """Seconds."""


class Environment(pydantic.BaseModel):
    """The variables, by their names without CADENZA_, as text or parsed from it."""

    model_config = pydantic.ConfigDict(alias_generator=lambda name: f"CADENZA_{name.upper()}")

    target: str = DEFAULT_TARGET
    model: Text = ""
    timeout: Seconds = DEFAULT_TIMEOUT
    client_id: HeaderText | None = None
    max_retries: Retries = DEFAULT_RETRIES
    tls: bool | None = None
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_server_name: str | None = None
    token: str | None = None
    token_file: Path | None = None
    plaintext_token: bool = False

    def tls_settings(self) -> Tls | bool:
        files = {
            "ca_file": self.tls_ca_file,
            "cert_file": self.tls_cert_file,
            "key_file": self.tls_key_file,
            "server_name": self.tls_server_name,
        }
        wanted = any(files.values()) if self.tls is None else self.tls
        return Tls(**files) if wanted else False


_CHECK = checker(ClientOptions)


def settings_from(target: str | None, options: ClientOptions, environment: Mapping[str, str]) -> Settings:
    """What holds for a client; an empty variable counts as absent. Raises InvalidOption."""
    around = _read_environment(environment)
    try:
        given = _CHECK.model_validate(options)
    except pydantic.ValidationError as error:
        raise invalid_option(error, depth=1) from None
    chosen = {
        name: value for name in ClientOptions.__annotations__ if (value := getattr(given, name)) is not None
    }
    tls = chosen.get("tls", around.tls_settings())
    settings = Settings(
        target=around.target if target is None else target,
        defaults=_call_defaults(chosen, around),
        tls=TlsContent.of(Tls() if tls is True else tls) if tls else None,
        token=_token(chosen.get("token", around.token or around.token_file)),
        interceptors=tuple(chosen.get("interceptors", ())),
        max_message_bytes=chosen.get("max_message_bytes", _DEFAULT_MESSAGE_BYTES),
        keepalive=chosen.get("keepalive", _DEFAULT_KEEPALIVE),
    )
    _check_target(settings.target)
    if not chosen.get("plaintext_token", around.plaintext_token):
        _check_token_is_safe(settings)
    return settings


def _read_environment(environment: Mapping[str, str]) -> Environment:
    known = {field.alias for field in Environment.model_fields.values()}
    given = {name: value for name, value in environment.items() if name in known and value}
    try:
        return Environment.model_validate(given)
    except pydantic.ValidationError as error:
        raise invalid_option(error) from None


def _call_defaults(chosen: Mapping[str, Any], around: Environment) -> dict[str, Any]:
    names = ("model", *CallOptions.__annotations__)
    from_environment = {name: getattr(around, name) for name in names if hasattr(around, name)}
    given = {name: chosen[name] for name in names if name in chosen}
    return {name: value for name, value in {**from_environment, **given}.items() if value is not None}


def _token(token: Token | None) -> Token | None:
    return TokenFile(token) if isinstance(token, Path) else token


_LOCAL = re.compile(r"(?:dns:/*|ipv4:|ipv6:)?(?:localhost|127(?:\.\d+){3}|\[::1\])(?::\d+)?")


def _check_target(target: str) -> None:
    if not target or not target.isprintable() or " " in target:
        raise refused("target", f"must be HOST:PORT or a gRPC name as dns:///HOST:PORT; given: {target!r}")


def _check_token_is_safe(settings: Settings) -> None:
    """A token over an open network is a token lost."""
    addresses = settings.target.split(",")
    is_local = settings.target.startswith("unix") or all(map(_LOCAL.fullmatch, addresses))
    if settings.token and not settings.tls and not is_local:
        raise refused(
            "token",
            f"would go to {settings.target} without TLS: set tls, or plaintext_token=True where the network "
            "encrypts by itself",
        )
