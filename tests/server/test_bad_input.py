"""Every kind of bad input gets the typed error of docs/errors.md, and the next request is served."""

import math
from typing import Any

import grpc
import pytest
from tests.server.live import Live, create, read_error

from cadenza.v1 import completion_pb2 as pb

Chat, Message, Prompt = pb.Chat, pb.ChatMessage, pb.Prompt


def _prompt(prompt: pb.Prompt | None) -> pb.CreateCompletionRequest:
    return pb.CreateCompletionRequest(prompt=prompt)


def _chat(*messages: tuple[str, str]) -> pb.CreateCompletionRequest:
    return _prompt(Prompt(chat=Chat(messages=[Message(role=role, content=text) for role, text in messages])))


def _ids(*ids: int) -> pb.CreateCompletionRequest:
    return _prompt(Prompt(token_ids=pb.TokenIds(ids=ids)))


CASES: list[tuple[str, pb.CreateCompletionRequest, str, str]] = [
    ("no prompt", _prompt(None), "MISSING_FIELD", "prompt"),
    ("no kind of prompt", _prompt(Prompt()), "MISSING_FIELD", "prompt"),
    ("empty text", create(""), "EMPTY_PROMPT", "prompt.text"),
    ("no token ids", _ids(), "EMPTY_PROMPT", "prompt.token_ids.ids"),
    ("no messages", _chat(), "EMPTY_PROMPT", "prompt.chat.messages"),
    ("prompt as long as the context", create("a" * 128), "PROMPT_TOO_LONG", "prompt.text"),
    ("prompt of a million characters", create("a" * 1_000_000), "PROMPT_TOO_LONG", "prompt.text"),
    ("too many token ids", _ids(*[5] * 128), "PROMPT_TOO_LONG", "prompt.token_ids.ids"),
    ("chat too long", _chat(("user", "a" * 128)), "PROMPT_TOO_LONG", "prompt.chat"),
    ("token id past the vocabulary", _ids(1, 260), "INVALID_TOKEN_ID", "prompt.token_ids.ids[1]"),
    ("negative token id", _ids(-1), "INVALID_TOKEN_ID", "prompt.token_ids.ids[0]"),
    ("unknown role", _chat(("robot", "hi")), "INVALID_ROLE", "prompt.chat.messages[0].role"),
    ("template refuses", _chat(("system", "hi")), "CHAT_TEMPLATE_FAILED", "prompt.chat"),
    ("temperature -1", create("a", temperature=-1), "FIELD_OUT_OF_RANGE", "parameters.temperature"),
    ("temperature 101", create("a", temperature=101), "FIELD_OUT_OF_RANGE", "parameters.temperature"),
    ("temperature NaN", create("a", temperature=math.nan), "FIELD_OUT_OF_RANGE", "parameters.temperature"),
    ("temperature inf", create("a", temperature=math.inf), "FIELD_OUT_OF_RANGE", "parameters.temperature"),
    ("top_k -1", create("a", top_k=-1), "FIELD_OUT_OF_RANGE", "parameters.top_k"),
    ("top_p 0", create("a", top_p=0), "FIELD_OUT_OF_RANGE", "parameters.top_p"),
    ("top_p 2", create("a", top_p=2), "FIELD_OUT_OF_RANGE", "parameters.top_p"),
    ("top_p NaN", create("a", top_p=math.nan), "FIELD_OUT_OF_RANGE", "parameters.top_p"),
    ("min_p -0.1", create("a", min_p=-0.1), "FIELD_OUT_OF_RANGE", "parameters.min_p"),
    ("min_p NaN", create("a", min_p=math.nan), "FIELD_OUT_OF_RANGE", "parameters.min_p"),
    ("max_tokens 0", create("a", max_tokens=0), "FIELD_OUT_OF_RANGE", "parameters.max_tokens"),
    ("max_tokens -1", create("a", max_tokens=-1), "FIELD_OUT_OF_RANGE", "parameters.max_tokens"),
    ("max_tokens huge", create("a", max_tokens=2**31 - 1), "FIELD_OUT_OF_RANGE", "parameters.max_tokens"),
    ("max_tokens past the room", create("a", max_tokens=128), "FIELD_OUT_OF_RANGE", "parameters.max_tokens"),
    ("17 stops", create("a", stop=["x"] * 17), "TOO_MANY_STOPS", "parameters.stop"),
    ("10,000 stops", create("a", stop=["x"] * 10_000), "TOO_MANY_STOPS", "parameters.stop"),
    ("65 stop ids", create("a", stop_token_ids=[1] * 65), "TOO_MANY_STOPS", "parameters.stop_token_ids"),
    ("empty stop", create("a", stop=["x", ""]), "FIELD_OUT_OF_RANGE", "parameters.stop[1]"),
    ("long stop", create("a", stop=["x" * 257]), "FIELD_OUT_OF_RANGE", "parameters.stop[0]"),
    (
        "stop id past the vocabulary",
        create("a", stop_token_ids=[999]),
        "INVALID_TOKEN_ID",
        "parameters.stop_token_ids[0]",
    ),
    ("n 0", create("a", n=0), "FIELD_OUT_OF_RANGE", "parameters.n"),
    ("n above max_sequences", create("a", n=5), "FIELD_OUT_OF_RANGE", "parameters.n"),
    ("n -1", create("a", n=-1), "FIELD_OUT_OF_RANGE", "parameters.n"),
    ("logprobs -1", create("a", logprobs=-1), "FIELD_OUT_OF_RANGE", "parameters.logprobs"),
    ("logprobs 21", create("a", logprobs=21), "FIELD_OUT_OF_RANGE", "parameters.logprobs"),
    (
        "repetition_penalty 0",
        create("a", repetition_penalty=0),
        "FIELD_OUT_OF_RANGE",
        "parameters.repetition_penalty",
    ),
    (
        "repetition_penalty 11",
        create("a", repetition_penalty=11),
        "FIELD_OUT_OF_RANGE",
        "parameters.repetition_penalty",
    ),
    (
        "repetition_penalty NaN",
        create("a", repetition_penalty=math.nan),
        "FIELD_OUT_OF_RANGE",
        "parameters.repetition_penalty",
    ),
    (
        "presence_penalty 2.1",
        create("a", presence_penalty=2.1),
        "FIELD_OUT_OF_RANGE",
        "parameters.presence_penalty",
    ),
    (
        "presence_penalty NaN",
        create("a", presence_penalty=math.nan),
        "FIELD_OUT_OF_RANGE",
        "parameters.presence_penalty",
    ),
    (
        "frequency_penalty -2.1",
        create("a", frequency_penalty=-2.1),
        "FIELD_OUT_OF_RANGE",
        "parameters.frequency_penalty",
    ),
    (
        "frequency_penalty inf",
        create("a", frequency_penalty=math.inf),
        "FIELD_OUT_OF_RANGE",
        "parameters.frequency_penalty",
    ),
    ("priority 101", create("a", priority=101), "FIELD_OUT_OF_RANGE", "parameters.priority"),
    ("priority -101", create("a", priority=-101), "FIELD_OUT_OF_RANGE", "parameters.priority"),
    ("logit_bias 101", create("a", logit_bias={7: 101.0}), "FIELD_OUT_OF_RANGE", "parameters.logit_bias[7]"),
    (
        "logit_bias NaN",
        create("a", logit_bias={7: math.nan}),
        "FIELD_OUT_OF_RANGE",
        "parameters.logit_bias[7]",
    ),
    (
        "301 biases",
        create("a", logit_bias=dict.fromkeys(range(301), 1.0)),
        "FIELD_OUT_OF_RANGE",
        "parameters.logit_bias",
    ),
    (
        "logit_bias past the vocabulary",
        create("a", logit_bias={260: 1.0}),
        "INVALID_TOKEN_ID",
        "parameters.logit_bias[260]",
    ),
    (
        "logit_bias of a negative id",
        create("a", logit_bias={-1: 1.0}),
        "INVALID_TOKEN_ID",
        "parameters.logit_bias[-1]",
    ),
]


@pytest.mark.parametrize(("request_", "reason", "field"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
async def test_bad_field_is_refused_with_its_path_and_the_next_request_is_served(
    live: Live, request_: pb.CreateCompletionRequest, reason: str, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await live.stub.CreateCompletion(request_)
    await live.still_serves()
    streaming = pb.StreamCompletionRequest.FromString(request_.SerializeToString())
    with pytest.raises(grpc.aio.AioRpcError) as streamed:
        await live.stub.StreamCompletion(streaming).read()
    await live.still_serves()
    for error in (read_error(unary.value), read_error(streamed.value)):
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert error.violations == {field: error.message}
        assert error.info.metadata["field"] == field
    assert live.runner.begun == 6


async def test_max_tokens_names_the_largest_allowed(live: Live) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await live.stub.CreateCompletion(create("abc", max_tokens=500))
    assert read_error(raised.value).message == (
        "parameters.max_tokens is 500; it must be from 1 to 125: 128 of context less 3 of prompt"
    )
    assert len(await live.text("abc", max_tokens=125, ignore_eos=True)) > 20


async def test_unknown_model_names_the_models_there_are(live: Live) -> None:
    for call in (
        live.stub.CreateCompletion(pb.CreateCompletionRequest(model="nosuch")),
        live.stub.GetModel(pb.GetModelRequest(model="nosuch")),
        live.stub.CountTokens(pb.CountTokensRequest(model="nosuch")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        error = read_error(raised.value)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert error.info.metadata["models"] == "tiny"
    await live.still_serves()


@pytest.mark.parametrize("data", [b"\x0a\x02\xff\xfe", b"\x12\x04\x0a\x02\xc3\x28", b"\xff\xff\xff"])
@pytest.mark.parametrize("method", ["CreateCompletion", "StreamCompletion", "CountTokens"])
async def test_bytes_that_do_not_parse_are_a_malformed_request(live: Live, method: str, data: bytes) -> None:
    path = f"/cadenza.v1.CompletionService/{method}"
    channel: Any = live.channel
    if method == "StreamCompletion":
        call = channel.unary_stream(path)(data).read()
    else:
        call = channel.unary_unary(path)(data)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = read_error(raised.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    await live.still_serves()


@pytest.mark.parametrize("given", ["x" * 129, ""])
async def test_a_client_id_that_is_not_printable_is_refused(live: Live, given: str) -> None:
    metadata = (("cadenza-client-id", given),)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await live.stub.CreateCompletion(create("a"), metadata=metadata)
    error = read_error(raised.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CLIENT_ID")
    assert list(error.violations) == ["metadata.cadenza-client-id"]
    await live.still_serves()


async def test_the_limits_of_every_range_are_allowed(live: Live) -> None:
    least = {"n": 1, "logprobs": 0, "repetition_penalty": 0.1, "presence_penalty": -2, "priority": -100}
    most = {
        "n": 4, "logprobs": 20, "repetition_penalty": 10, "presence_penalty": 2, "frequency_penalty": 2,
        "priority": 100, "logit_bias": dict.fromkeys(range(260), 100.0), "cache_prompt": False,
    }  # fmt: skip
    assert await live.text("a", max_tokens=2, **least) == "bc"
    assert await live.text("a", max_tokens=2, **most) == "bc"
