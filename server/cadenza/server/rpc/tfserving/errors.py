"""Errors with the codes and words of TensorFlow Serving, whose clients look for them.

Each is a RequestError, so they carry the reasons and details of all errors of this server too.
"""

from collections.abc import Iterable

from cadenza.server.errors import InvalidRequestError, Reason, RequestError

_LONGEST_MESSAGE = 1024
"""Characters; TensorFlow Serving cuts its messages there too."""


class ServableNotFoundError(RequestError):
    """No version that could answer is available."""

    code = "NOT_FOUND"

    def __init__(self, name: str, version: int | None, why: RequestError) -> None:
        """`why` is what CompletionService would say; its reason is kept."""
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        super().__init__(
            why.reason,
            _cut(f"Servable not found for request: {wanted}"),
            metadata=why.metadata,
            retry_after=why.retry_after,
        )


class VersionsNotFoundError(RequestError):
    """Nothing is known of a model, or of one version of it."""

    code = "NOT_FOUND"

    def __init__(self, name: str, version: int | None) -> None:
        what = "any versions" if version is None else f"version {version}"
        super().__init__(Reason.MODEL_NOT_FOUND, _cut(f"Could not find {what} of model {name}"))


class SignatureNotFoundError(RequestError):
    """The SavedModel has no signature of that name."""

    code = "FAILED_PRECONDITION"

    def __init__(self, signature: str) -> None:
        super().__init__(Reason.SIGNATURE_NOT_FOUND, _cut(f'Serving signature key "{signature}" not found.'))


class NotServedError(RequestError):
    """TensorFlow Serving has it, this server does not; the message says where it can be had."""

    code = "UNIMPLEMENTED"

    def __init__(self, message: str) -> None:
        super().__init__(Reason.NOT_SERVED, message)


def invalid(field: str, message: str, reason: Reason = Reason.INVALID_TENSOR) -> InvalidRequestError:
    """What the request says in `field` is wrong."""
    return InvalidRequestError(reason, field, _cut(message))


def missing(field: str, message: str) -> InvalidRequestError:
    """`field` has to be set."""
    return InvalidRequestError(Reason.MISSING_FIELD, field, message)


def name_set(names: Iterable[str]) -> str:
    """Names as TensorFlow Serving lists them: sorted, in braces."""
    return "{" + ",".join(sorted(names)) + "}"


def _cut(message: str) -> str:
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."
