"""The SDK: `Client` and `AsyncClient` complete prompts and hold conversations on a Cadenza server."""

from cadenza.client._async_client import AsyncClient
from cadenza.client._async_stream import AsyncStream
from cadenza.client._client import Client
from cadenza.client._options import CallOptions, CompletionOptions
from cadenza.client._prompt import Message, Messages, Prompt
from cadenza.client._results import (
    Choice,
    Completion,
    CompletionChunk,
    FinishReason,
    Logprobs,
    Model,
    ServingStatus,
    Timing,
    TokenCount,
    TokenLogprob,
    Usage,
)
from cadenza.client._settings import ClientOptions
from cadenza.client._stream import Stream
from cadenza.client._tls import Tls
from cadenza.client._token import Token
from cadenza.client.errors import (
    CadenzaError,
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidOption,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QueueFull,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unusable,
)

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "CadenzaError",
    "CallOptions",
    "Cancelled",
    "Choice",
    "Client",
    "ClientOptions",
    "Completion",
    "CompletionChunk",
    "CompletionOptions",
    "ConnectionFailed",
    "DeadlineExceeded",
    "FieldViolation",
    "FinishReason",
    "InternalError",
    "InvalidOption",
    "InvalidRequest",
    "Logprobs",
    "Message",
    "Messages",
    "Model",
    "NotFound",
    "PermissionDenied",
    "Prompt",
    "QueueFull",
    "ResourceExhausted",
    "ServingStatus",
    "Stream",
    "Timing",
    "Tls",
    "Token",
    "TokenCount",
    "TokenLogprob",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unusable",
    "Usage",
]
