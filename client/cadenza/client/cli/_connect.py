"""The client that the connection flags ask for."""

import argparse
from typing import Final, cast

from cadenza.client._async_client import AsyncClient
from cadenza.client._settings import ClientOptions
from cadenza.client._tls import Tls

_OPTIONS: Final = ("model", "timeout", "max_retries", "client_id")
_TLS_FIELDS: Final = ("ca_file", "cert_file", "key_file", "server_name")

CONNECTION: Final = ("target", *_OPTIONS, "token_file", "tls", *_TLS_FIELDS)
"""Flags by the names of their values."""


def connect(args: argparse.Namespace) -> AsyncClient:
    """A client; for flags that were not given the environment holds. Raises InvalidOption."""
    return AsyncClient(args.target, **client_options(args))


def client_options(args: argparse.Namespace) -> ClientOptions:
    """What the flags say beside the target. Any flag of TLS replaces all that the environment says of it."""
    tls_fields = {name: value for name in _TLS_FIELDS if (value := getattr(args, name))}
    options = {name: getattr(args, name) for name in _OPTIONS}
    secure = {"token": args.token_file, "tls": Tls(**tls_fields) if tls_fields else args.tls}
    return cast("ClientOptions", {**options, **secure})
