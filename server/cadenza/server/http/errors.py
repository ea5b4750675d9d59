"""The server's errors as OpenAI's clients read them: a status, headers, and an object `error`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cadenza.server.errors import InvalidRequestError, Reason, RequestError, quote

UNSUPPORTED: Mapping[str, str] = {
    "audio": "the models write text alone",
    "best_of": "only as many choices as `n` are computed",
    "chat_template": "a chat is rendered by the model's own template",
    "function_call": "the models call no functions",
    "functions": "the models call no functions",
    "guided_choice": "the form of an answer cannot be forced",
    "guided_grammar": "the form of an answer cannot be forced",
    "guided_json": "the form of an answer cannot be forced",
    "guided_regex": "the form of an answer cannot be forced",
    "modalities": "the models write text alone",
    "prediction": "there is no speculation on given text",
    "prompt_logprobs": "use `echo` with `logprobs` of /v1/completions",
    "response_format": "the form of an answer cannot be forced",
    "service_tier": "there are no tiers; `priority` says who goes first",
    "store": "nothing is stored",
    "suffix": "there is no text after the completion",
    "tool_calls": "the models call no tools",
    "tool_choice": "the models call no tools",
    "tools": "the models call no tools",
    "use_beam_search": "tokens are drawn one by one; ask for `n` choices",
    "web_search_options": "the models search nothing",
}
"""Fields that OpenAI's API or other servers have and this one has not, and why."""

_FORMS: Mapping[str, str] = {
    "prompt": "a text, token ids, several texts or several lists of token ids, none of them empty",
    "stop": "a text or several, none of them empty",
    "content": "a text, or parts of type text; images, sound and files are not supported",
}
"""Fields that may have several forms: what each alternative lacks would only confuse."""

_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_STATUSES_OF_REASONS = {Reason.MESSAGE_TOO_LARGE: 413}
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_CODES = {
    Reason.PROMPT_TOO_LONG: "context_length_exceeded",
    Reason.TOKEN_MISSING: "invalid_api_key",
    Reason.TOKEN_INVALID: "invalid_api_key",
}
"""Codes that clients know; the others are the reasons in small letters."""

_PATHS = (
    ("prompt.chat.messages", "messages"),
    ("prompt.chat", "messages"),
    ("prompt.token_ids.ids", "prompt"),
    ("prompt.text", "prompt"),
    ("parameters.", ""),
    ("metadata.", ""),
)
"""How fields of the protobuf messages are called here."""


def status(error: RequestError) -> int:
    """The HTTP status of an error."""
    return _STATUSES_OF_REASONS.get(error.reason, _STATUSES[error.code])


def headers(error: RequestError) -> dict[str, str]:
    """What tells clients when to try again, how to say who they are, and that the connection ends."""
    found: dict[str, str] = {}
    if error.retry_after is not None:
        found["retry-after"] = str(math.ceil(error.retry_after))
        found["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    if error.code == "UNAUTHENTICATED":
        found["www-authenticate"] = "Bearer"
    if error.reason is Reason.MESSAGE_TOO_LARGE:
        found["connection"] = "close"  # what is left of the request is not read
    return found


def content(error: RequestError) -> dict[str, Any]:
    """The error's object, as a body or as the last event of a stream."""
    code = status(error)
    message, param = error.message, None
    if isinstance(error, InvalidRequestError):
        param = _here(error.field) or None
        message = message.replace(error.field, param) if param else message
    return {
        "error": {
            "message": message,
            "type": _TYPES.get(code, "invalid_request_error" if code < 500 else "server_error"),
            "param": param,
            "code": _CODES.get(error.reason, error.reason.lower()),
        }
    }


def invalid_body(error: ValidationError) -> InvalidRequestError:
    """What is wrong with a body, by the first of its problems."""
    problem = error.errors(include_url=False, include_context=False)[0]
    path = _path(problem["loc"])
    if problem["type"] == "json_invalid" or not path:
        return InvalidRequestError(
            Reason.MALFORMED_REQUEST, "", f"the body must be a JSON object in UTF-8: {problem['msg']}"
        )
    reason, what = _explain(problem, [part for part in problem["loc"] if isinstance(part, str)])
    return InvalidRequestError(reason, path, f"{path} {what}")


def _explain(problem: ErrorDetails, fields: Sequence[str]) -> tuple[Reason, str]:
    """What is wrong with a field. `fields` are those on the way to it, itself the last."""
    kind, given = problem["type"], quote(problem["input"])
    for field in (fields[0], fields[-1]):
        if field in UNSUPPORTED:
            why = f"is {given}, which is not supported here: {UNSUPPORTED[field]}; leave it out"
            return Reason.UNSUPPORTED_FIELD, why
    if kind == "extra_forbidden":
        return Reason.UNKNOWN_FIELD, "is no field of this request; leave it out"
    if kind == "missing":
        return Reason.MISSING_FIELD, "is missing; set it"
    for field in fields:
        if field in _FORMS:
            return Reason.MALFORMED_REQUEST, f"is {given}; it must be {_FORMS[field]}"
    reason = Reason.MALFORMED_REQUEST if kind.endswith(("_type", "_parsing")) else Reason.FIELD_OUT_OF_RANGE
    return reason, f"is {given}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _path(loc: Iterable[str | int]) -> str:
    """`messages[0].content` of what pydantic says, without its names for the alternatives of a field."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "list"):
            path += f".{part}" if path else part
    return path


def _here(field: str) -> str:
    for there, here in _PATHS:
        if field.startswith(there):
            return here + field.removeprefix(there)
    return field
