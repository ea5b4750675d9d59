"""The bearer token of every call, from where it is kept: a constant, a callable, or a file that rotates."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import grpc

from cadenza.client.errors import Unauthenticated

Token: TypeAlias = str | Path | Callable[[], str]
"""The token itself; a callable that gives it; or the file that holds it, which may change at any time."""

_MOST_CHARACTERS: Final = 8192
"""As much metadata as servers take from a client, by gRPC's default."""
_FIT = re.compile(r"[\x21-\x7e]+")


def authorization(token: Token) -> str:
    """The header's value for a token. Raises Unauthenticated where there is no token to send."""
    if callable(token):
        token = token()
    if not _FIT.fullmatch(str(token)):
        raise _no_token("the token must be printable ASCII without spaces, and not empty")
    return f"Bearer {token}"


class TokenFile:
    """The token in a file, surrounding white space taken off; read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int, int], str] | None = None

    def __call__(self) -> str:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - a third of Path.stat's time, at every call
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._read is None or self._read[0] != version:
                self._read = version, self._content()
        except (OSError, UnicodeDecodeError) as error:
            raise _no_token(f"the token file {self._path} cannot be read: {error}") from error
        return self._read[1]

    def _content(self) -> str:
        with self._path.open(encoding="utf-8") as file:
            content = file.read(_MOST_CHARACTERS + 1)
        if len(content) > _MOST_CHARACTERS:
            raise _no_token(f"the token file {self._path} has more than {_MOST_CHARACTERS} characters")
        return content.strip()


def _no_token(message: str) -> Unauthenticated:
    return Unauthenticated(
        f"{message}; nothing was sent", code=grpc.StatusCode.UNAUTHENTICATED, reason="NO_TOKEN"
    )
