"""What is known of the call being answered, for its handler, its log line and its metrics."""

import contextvars
import dataclasses
import uuid
from collections.abc import Iterable

REQUEST_ID_KEY = "x-request-id"
_LONGEST_ID = 128


@dataclasses.dataclass(slots=True)
class Call:
    """One call. `arrival` is in seconds on the engine's clock; `log` goes into the line that ends it."""

    request_id: str
    arrival: float
    code: str = "UNKNOWN"
    """The status it ended with."""
    log: dict[str, object] = dataclasses.field(default_factory=dict)


current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("current_call")


def request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's x-request-id where it is 1 to 128 printable ASCII characters, else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _is_fit(value):
            return value
    return uuid.uuid4().hex


def _is_fit(value: str) -> bool:
    return 0 < len(value) <= _LONGEST_ID and value.isascii() and value.isprintable()
