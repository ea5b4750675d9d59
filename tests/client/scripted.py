"""A real gRPC server whose answers a test writes: for what the SDK and the command do with them.

The test sets attributes of `ScriptedServer`; the server records what it received and when it was cancelled.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status
from tests.client.scripted_health import NOT_SERVING, SERVING, ScriptedHealth

from cadenza.v1 import completion_pb2 as pb
from cadenza.v1 import completion_pb2_grpc as pb_grpc

REQUEST_ID = "req-1"
MODEL = pb.Model(
    name="tiny",
    version=3,
    family="llama",
    precision="int8",
    parameter_count=134_515_008,
    vocabulary_size=49152,
    max_context=2048,
    default_max_tokens=128,
    has_chat_template=True,
    eos_token_ids=[2],
)
USAGE = pb.Usage(prompt_tokens=7, cached_prompt_tokens=2, completion_tokens=4)
TIMING = pb.Timing(
    queue=Duration(nanos=1_000_000),
    prefill=Duration(nanos=20_000_000),
    decode=Duration(seconds=1, nanos=500_000_000),
    time_to_first_token=Duration(nanos=21_000_000),
)


def piece(text: str, *token_ids: int, index: int = 0, end: int = pb.FINISH_REASON_UNSPECIFIED) -> pb.Choice:
    """One choice of a message."""
    return pb.Choice(index=index, text=text, token_ids=token_ids, finish_reason=end)  # type: ignore[arg-type]


PARIS = (piece("The capital", 5, 6), piece(" is Paris.", 7, 2, end=pb.FINISH_REASON_STOP))


class ScriptedServer(pb_grpc.CompletionServiceServicer):
    """Answers with `answer`, one message per choice; fails or hangs when told to."""

    def __init__(self) -> None:
        self.answer: tuple[pb.Choice, ...] = PARIS
        self.failure: status_pb2.Status | None = None
        """The status of every call."""
        self.failing_calls: int | None = None
        """How many more calls fail; None for all."""
        self.token: str | None = None
        """The bearer token without which every call is UNAUTHENTICATED."""
        self.fails_after: int | None = None
        """Messages of a stream before `failure`; None fails at once."""
        self.hangs_after: int | None = None
        """Messages of a stream before it waits for its end; unary calls then wait at once."""
        self.requests: list[Message] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.seconds_left: list[float | None] = []
        self.arrivals: list[float] = []
        """When requests came, on time.monotonic."""
        self.refused = threading.Event()
        self.hanging = threading.Event()
        self.cancelled = threading.Event()
        """Set when a call ends that was to hang."""
        self.health = ScriptedHealth()
        self.port = 0
        self._server: grpc.Server | None = None

    def start(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> Self:
        """Serves on this port of localhost, or on a free one; with TLS where there are credentials."""
        self._server = grpc.server(ThreadPoolExecutor(max_workers=64))
        pb_grpc.add_CompletionServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        address = f"localhost:{port}"
        self.port = (
            self._server.add_secure_port(address, credentials)
            if credentials
            else self._server.add_insecure_port(address)
        )
        self._server.start()
        return self

    def stop(self) -> None:
        """Ends all calls and returns when the port is free."""
        if self._server is not None:
            self._server.stop(grace=None).wait(10)

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"localhost:{self.port}"

    def set_serving(self, *, serving: bool) -> None:
        """What the health service says of the whole server."""
        self.health.set(SERVING if serving else NOT_SERVING)

    def CreateCompletion(  # noqa: N802 - the wire's name
        self, request: pb.CreateCompletionRequest, context: grpc.ServicerContext
    ) -> pb.CreateCompletionResponse:
        self._begin(request, context)
        if self.hangs_after is not None:
            self._wait_for_end(context)
        choices: dict[int, pb.Choice] = {}
        for part in self.answer:
            choice = choices.setdefault(part.index, pb.Choice(index=part.index))
            choice.MergeFrom(pb.Choice(token_ids=part.token_ids, finish_reason=part.finish_reason))
            choice.text += part.text
        return pb.CreateCompletionResponse(
            request_id=REQUEST_ID,
            model=request.model or "tiny",
            choices=choices.values(),
            usage=USAGE,
            timing=TIMING,
        )

    def StreamCompletion(  # noqa: N802
        self, request: pb.StreamCompletionRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamCompletionResponse]:
        self._begin(request, context, fail=self.fails_after is None)
        for sent, choice in enumerate(self.answer):
            if sent == self.hangs_after:
                self._wait_for_end(context)
                return
            if sent == self.fails_after:
                self._fail(context)
            response = pb.StreamCompletionResponse(
                request_id=REQUEST_ID, model=request.model or "tiny", choices=[choice]
            )
            if sent == len(self.answer) - 1:
                response.usage.CopyFrom(USAGE)
                response.timing.CopyFrom(TIMING)
            yield response

    def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: grpc.ServicerContext
    ) -> pb.GetModelResponse:
        self._begin(request, context)
        return pb.GetModelResponse(model=MODEL)

    def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        self._begin(request, context)
        return pb.ListModelsResponse(models=[MODEL])

    def CountTokens(  # noqa: N802
        self, request: pb.CountTokensRequest, context: grpc.ServicerContext
    ) -> pb.CountTokensResponse:
        self._begin(request, context)
        return pb.CountTokensResponse(prompt_tokens=3, token_ids=[1, 2, 3])

    def _begin(self, request: Message, context: grpc.ServicerContext, *, fail: bool = True) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.seconds_left.append(context.time_remaining())
        self.arrivals.append(time.monotonic())
        if self.token and self.metadata[-1].get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid token")
        if self.hangs_after is not None:
            context.add_callback(self.cancelled.set)
        context.send_initial_metadata((("x-request-id", REQUEST_ID),))
        if fail:
            self._fail(context)

    def _fail(self, context: grpc.ServicerContext) -> None:
        if self.failure is None or self.failing_calls == 0:
            return
        if self.failing_calls is not None:
            self.failing_calls -= 1
        failure = status_pb2.Status()
        failure.CopyFrom(self.failure)
        failure.details.add().Pack(error_details_pb2.RequestInfo(request_id=REQUEST_ID))
        self.refused.set()
        context.abort_with_status(rpc_status.to_status(failure))

    def _wait_for_end(self, context: grpc.ServicerContext) -> None:
        ended = threading.Event()
        if context.add_callback(ended.set):
            self.hanging.set()
            ended.wait(30)


def rich_status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    """google.rpc.Status with its details packed."""
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def error_info(reason: str) -> Message:
    """ErrorInfo of Cadenza's domain."""
    info: Message = error_details_pb2.ErrorInfo(reason=reason, domain="cadenza")
    return info


def queue_full(retry_seconds: float) -> status_pb2.Status:
    """What the server says when too many requests wait."""
    delay = Duration()
    delay.FromNanoseconds(round(retry_seconds * 1e9))
    return rich_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "64 requests wait; at most 64 may",
        error_info("QUEUE_FULL"),
        error_details_pb2.RetryInfo(retry_delay=delay),
    )


def draining() -> status_pb2.Status:
    """What the server says when it is about to end."""
    return rich_status(
        grpc.StatusCode.UNAVAILABLE, "the server is shutting down", error_info("SERVER_DRAINING")
    )


def out_of_range() -> status_pb2.Status:
    """What the server says of temperature -1."""
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="parameters.temperature", description="must be within 0 and 100; given: -1"
    )
    return rich_status(
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameters.temperature must be within 0 and 100; given: -1",
        error_info("FIELD_OUT_OF_RANGE"),
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
