"""Bearer tokens: the file that names them, and who shows one.

Only digests are kept. Every stored digest is compared, each in constant time, so that how long a refusal
takes tells nothing about the tokens.
"""

import dataclasses
import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from cadenza.server.errors import CredentialError, Reason, UnauthenticatedError
from cadenza.server.rpc.followed_files import read_file

AUTHORIZATION_KEY = "authorization"
_LARGEST_FILE = 1 << 20
_MOST_TOKENS = 1000
_SHORTEST_TOKEN = 16
"""Characters. Digests are not salted: a token must be too long to be guessed."""
_NAME = re.compile(r"[\x21-\x7e]{1,128}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclasses.dataclass(frozen=True, slots=True)
class TokenTable:
    """The valid tokens: SHA-256 digest and name of each; a name may have several."""

    entries: tuple[tuple[bytes, str], ...] = dataclasses.field(repr=False)

    def name_of(self, token: str) -> str | None:
        """Whose token it is; None where it is not valid."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        found = None
        for known, name in self.entries:
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def authenticate(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The name of the token in a call's metadata. Raises UnauthenticatedError."""
        values = [value for key, value in metadata if key == AUTHORIZATION_KEY]
        if not values:
            raise UnauthenticatedError(
                Reason.TOKEN_MISSING,
                "this server asks every call but health for a bearer token: send the metadata (over HTTP the "
                f"header) '{AUTHORIZATION_KEY}: Bearer TOKEN'",
            )
        name = self.name_of(_token_in(values[0])) if len(values) == 1 else None
        if name is None:
            raise UnauthenticatedError(
                Reason.TOKEN_INVALID,
                f"the call's {AUTHORIZATION_KEY} is not 'Bearer TOKEN' with a token that is valid here; "
                "it may have been withdrawn: use a current one",
            )
        return name


def read_tokens(path: Path) -> TokenTable:
    """Reads a file of lines NAME TOKEN or NAME sha256:HEX. Raises CredentialError, with the line's number."""
    try:
        lines = read_file(path, most_bytes=_LARGEST_FILE).decode().splitlines()
    except UnicodeDecodeError as error:
        raise CredentialError(f"{path} is not UTF-8 text") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    entries = [
        _read_line(path, number, line) for number, line in numbered if line and not line.startswith("#")
    ]
    if not 1 <= len(entries) <= _MOST_TOKENS:
        raise CredentialError(f"{path} names {len(entries)} tokens; it must name 1 to {_MOST_TOKENS}")
    return TokenTable(tuple(entries))


def _read_line(path: Path, number: int, line: str) -> tuple[bytes, str]:
    name, _, secret = line.partition(" ")
    secret = secret.strip()
    digest = _DIGEST.fullmatch(secret)
    if not _NAME.fullmatch(name) or not (digest or _TOKEN.fullmatch(secret)):
        raise CredentialError(
            f"{path} line {number} is neither NAME TOKEN nor NAME sha256:HEX; a name is 1 to 128 printable "
            "ASCII characters, a token letters, digits and -._~+/ with = at its end"
        )
    if digest:
        return bytes.fromhex(digest[1]), name
    if len(secret) < _SHORTEST_TOKEN:
        raise CredentialError(
            f"{path} line {number}: the token of {name} has {len(secret)} characters; "
            f"{_SHORTEST_TOKEN} is the least, and 32 random bytes are better"
        )
    return hashlib.sha256(secret.encode()).digest(), name


def _token_in(value: str | bytes) -> str:
    """What follows `Bearer`; the empty text, which is no token, where something else is there."""
    scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""
