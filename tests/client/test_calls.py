"""Every call of both clients against a real server: what goes over the wire and what comes back."""

import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.client.scripted import REQUEST_ID, ScriptedServer, piece

import cadenza.client
from cadenza.client import (
    AsyncClient,
    Client,
    Completion,
    CompletionChunk,
    FinishReason,
    InvalidOption,
    InvalidRequest,
    Message,
    ServingStatus,
    Timing,
    Usage,
)
from cadenza.v1 import completion_pb2 as pb

USAGE = Usage(prompt_tokens=7, cached_prompt_tokens=2, completion_tokens=4)
TIMING = Timing(queue=0.001, prefill=0.02, decode=1.5, time_to_first_token=0.021)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, server: ScriptedServer) -> Any:
    """Calls a client's method by name, sync or async, and gives the result: one test for both twins."""

    async def of_async(name: str, *args: Any, **options: Any) -> Any:
        async with AsyncClient(server.target) as client:
            result = getattr(client, name)(*args, **options)
            return await (result if isinstance(result, Awaitable) else result.collect())

    async def of_sync(name: str, *args: Any, **options: Any) -> Any:
        with Client(server.target) as client:
            result = getattr(client, name)(*args, **options)
            return result.collect() if hasattr(result, "collect") else result

    return of_async if request.param == "async" else of_sync


@pytest.mark.parametrize("method", ["complete", "stream", "chat", "stream_chat"])
async def test_every_way_of_asking_gives_the_same_completion(call: Any, method: str) -> None:
    completion = await call(method, "What is the capital of France?")
    assert isinstance(completion, Completion)
    assert (completion.id, completion.model) == (REQUEST_ID, "tiny")
    assert completion.text == "The capital is Paris."
    assert completion.token_ids == (5, 6, 7, 2)
    assert completion.finish_reason is FinishReason.STOP
    assert completion.usage == USAGE
    assert completion.timing == TIMING


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_choices_of_one_prompt_are_kept_apart(server: ScriptedServer, call: Any, method: str) -> None:
    end, stop = pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP_TOKEN
    server.answer = (
        piece("b", 2, index=1),
        piece("a", 1),
        piece("B", 4, index=1, end=stop),
        piece("A", 3, end=end),
    )
    completion = await call(method, "x", n=2)
    assert [(choice.index, choice.text, choice.token_ids) for choice in completion.choices] == [
        (0, "aA", (1, 3)),
        (1, "bB", (2, 4)),
    ]
    assert [choice.finish_reason for choice in completion.choices] == [
        FinishReason.LENGTH,
        FinishReason.STOP_TOKEN,
    ]


async def test_log_probabilities_come_back_typed(server: ScriptedServer, call: Any) -> None:
    first, second = pb.Choice(text="a", token_ids=[1]), pb.Choice(text="b", token_ids=[2])
    first.logprobs.completion.add(token_id=1, text="a", logprob=-0.5).alternatives.add(
        token_id=9, logprob=-1.5
    )
    second.logprobs.completion.add(token_id=2, text="b", logprob=-0.25)
    first.logprobs.prompt.add(token_id=7, text="p")
    first.logprobs.prompt.add(token_id=8, text="q", logprob=0)
    server.answer = (first, second)
    logprobs = (await call("stream", "x", logprobs=1)).choices[0].logprobs
    assert [token.logprob for token in logprobs.prompt] == [None, 0]
    assert [token.logprob for token in logprobs.completion] == [-0.5, -0.25]
    assert logprobs.completion[0].alternatives[0].token_id == 9


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_options_that_were_not_given_are_absent_on_the_wire(
    server: ScriptedServer, call: Any, method: str
) -> None:
    await call(method, "hello", temperature=None)
    (request,) = server.requests
    assert request.prompt == pb.Prompt(text="hello")  # type: ignore[attr-defined]
    assert request.parameters == pb.CompletionParameters()  # type: ignore[attr-defined]
    assert request.parameters.ListFields() == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["complete", "stream_chat"])
async def test_options_that_mean_zero_are_present_on_the_wire(
    server: ScriptedServer, call: Any, method: str
) -> None:
    await call(method, "hello", temperature=0, top_k=0, seed=0, ignore_eos=False, priority=0)
    names = [field.name for field, _ in server.requests[0].parameters.ListFields()]  # type: ignore[attr-defined]
    assert names == ["temperature", "top_k", "seed", "ignore_eos", "priority"]


async def test_every_option_reaches_its_field(server: ScriptedServer, call: Any) -> None:
    options: dict[str, Any] = {
        "max_tokens": 5, "temperature": 0.5, "top_k": 40, "top_p": 0.25, "min_p": 0.125, "seed": 2**64 - 1,
        "stop": ("a", "b"), "stop_token_ids": [3, 4], "n": 2, "echo": True, "logprobs": 3,
        "logit_bias": {7: -1.5}, "repetition_penalty": 1.5, "presence_penalty": 0.25,
        "frequency_penalty": 0.75, "ignore_eos": True, "priority": -1, "cache_prompt": False,
    }  # fmt: skip
    assert set(options) == set(pb.CompletionParameters.DESCRIPTOR.fields_by_name)
    await call("complete", "x", model="other", **options)
    (request,) = server.requests
    assert isinstance(request, pb.CreateCompletionRequest)
    assert request.parameters == pb.CompletionParameters(**options)
    assert request.model == "other"


async def test_a_single_stop_string_is_not_taken_apart(server: ScriptedServer, call: Any) -> None:
    await call("complete", "x", stop="END")
    assert server.requests[0].parameters.stop == ["END"]  # type: ignore[attr-defined]


async def test_token_ids_are_sent_as_they_are(server: ScriptedServer, call: Any) -> None:
    await call("complete", range(3))
    assert server.requests[0].prompt.token_ids.ids == [0, 1, 2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        ("hi", [("user", "hi")]),
        (
            [Message("system", "Be brief."), {"role": "user", "content": "hi"}],
            [("system", "Be brief."), ("user", "hi")],
        ),
    ],
)
async def test_conversations_may_be_text_messages_or_dicts(
    server: ScriptedServer, call: Any, messages: Any, sent: Any
) -> None:
    await call("chat", messages)
    chat = server.requests[0].prompt.chat  # type: ignore[attr-defined]
    assert [(message.role, message.content) for message in chat.messages] == sent


async def test_models_are_listed_and_described(server: ScriptedServer, call: Any) -> None:
    (listed,) = await call("models")
    assert listed == await call("model", "tiny")
    assert (listed.name, listed.version, listed.parameter_count) == ("tiny", 3, 134_515_008)
    assert (listed.max_context, listed.has_chat_template, listed.eos_token_ids) == (2048, True, (2,))


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [("text", "text"), ([1, 2], "token_ids"), ([], "token_ids"), ([Message("user", "x")], "chat")],
)
async def test_tokens_are_counted_in_any_kind_of_prompt(
    server: ScriptedServer, call: Any, prompt: Any, kind: str
) -> None:
    count = await call("count_tokens", prompt, model="m")
    assert (count.prompt_tokens, count.token_ids) == (3, (1, 2, 3))
    (request,) = server.requests
    assert isinstance(request, pb.CountTokensRequest)
    assert (request.prompt.WhichOneof("kind"), request.model) == (kind, "m")


async def test_health_is_asked_of_the_server_and_of_a_service(server: ScriptedServer, call: Any) -> None:
    assert await call("health") is ServingStatus.SERVING
    server.set_serving(serving=False)
    assert await call("health") is ServingStatus.NOT_SERVING
    with pytest.raises(cadenza.client.NotFound):
        await call("health", "no.such.Service")


async def test_the_callers_request_id_and_timeout_go_with_the_call(server: ScriptedServer, call: Any) -> None:
    await call("complete", "x", request_id="mine-7", timeout=5)
    await call("models", timeout=math.inf)
    await call("models")
    assert server.metadata[0]["x-request-id"] == "mine-7"
    assert len({metadata["x-request-id"] for metadata in server.metadata}) == 3
    given, unlimited, default = server.seconds_left
    assert given is not None
    assert default is not None
    assert 0 < given < 6
    assert unlimited is None or unlimited > 1e9
    assert 6 < default < 61


def test_the_clients_model_and_timeout_hold_where_the_call_gives_none(server: ScriptedServer) -> None:
    with Client(server.target, model="mine", timeout=7) as client:
        client.complete("x")
        client.complete("x", model="")
    assert [request.model for request in server.requests] == ["mine", ""]  # type: ignore[attr-defined]
    assert all(left is not None and left < 8 for left in server.seconds_left)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"top_k": True}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"stop": [1]}, "stop[0]"),
        ({"logit_bias": {"x": 1.0}}, "logit_bias.x"),
        ({"timeout": 0}, "timeout"),
        ({"request_id": "two words"}, "request_id"),
        ({"client_id": "x" * 129}, "client_id"),
        ({"temprature": 1.0}, "temprature"),
    ],
)
async def test_an_option_of_the_wrong_type_is_refused_before_anything_is_sent(
    server: ScriptedServer, call: Any, options: Any, field: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        await call("complete", "x", **options)
    assert field in [violation.field for violation in caught.value.field_violations]
    assert caught.value.reason == "INVALID_OPTION"
    assert isinstance(caught.value, InvalidRequest | ValueError)
    assert server.requests == []


@pytest.mark.parametrize(
    ("method", "prompt", "field"),
    [
        ("complete", 5, "prompt"),
        ("complete", [1, "2"], "prompt[1]"),
        ("complete", [2**31], "prompt[0]"),
        ("complete", "\ud800", "prompt"),
        ("chat", [{"role": "user"}], "messages[0].content"),
        ("chat", [{"role": "user", "content": "x", "name": "y"}], "messages[0].name"),
        ("chat", [Message("user", 5)], "messages[0].content"),  # type: ignore[arg-type]
        ("chat", ["hi"], "messages[0]"),
        ("count_tokens", 5, "prompt"),
    ],
)
async def test_a_prompt_of_the_wrong_shape_is_refused_before_anything_is_sent(
    server: ScriptedServer, call: Any, method: str, prompt: Any, field: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        await call(method, prompt)
    assert caught.value.field_violations[0].field == field
    assert "given" in caught.value.message
    assert server.requests == []


@pytest.mark.parametrize("options", [{"timeout": -1}, {"client_id": ""}])
def test_a_client_without_sensible_defaults_cannot_be_made(options: Any) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        Client(**options)


async def test_the_client_id_of_the_client_or_of_the_call_is_sent_as_metadata(server: ScriptedServer) -> None:
    with Client(server.target, client_id="team-a") as client:
        client.complete("x")
        client.stream("x", client_id="team-b").collect()
        client.models()
    async with AsyncClient(server.target) as twin:
        await twin.complete("x")
        await twin.complete("x", client_id="team-c")
    sent = [metadata.get("cadenza-client-id") for metadata in server.metadata]
    assert sent == ["team-a", "team-b", "team-a", None, "team-c"]


def _public_signatures(cls: type) -> dict[str, list[inspect.Parameter]]:
    methods: list[tuple[str, Callable[..., Any]]] = list(inspect.getmembers(cls, inspect.isfunction))
    methods += [
        (name, member.fget)
        for name, member in vars(cls).items()
        if isinstance(member, property) and member.fget
    ]
    return {
        name: list(inspect.signature(method).parameters.values())
        for name, method in methods
        if not name.startswith("_") or name == "__init__"
    }


@pytest.mark.parametrize(
    ("sync", "twin"),
    [(Client, AsyncClient), (cadenza.client.Stream, cadenza.client.AsyncStream)],
)
def test_the_twins_have_the_same_public_signatures(sync: type, twin: type) -> None:
    ours, theirs = _public_signatures(sync), _public_signatures(twin)
    own_calls = ours.pop("__init__", None), theirs.pop("__init__", None)
    assert sync is not Client or own_calls[0] == own_calls[1]
    assert ours == theirs


def test_everything_public_is_named_in_all_and_nothing_else() -> None:
    named = cadenza.client.__all__
    assert named == sorted(named)
    visible = {
        name
        for name, value in vars(cadenza.client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert visible == set(named)


def test_results_are_values() -> None:
    chunk = CompletionChunk("id", "m", ())
    assert chunk == CompletionChunk("id", "m", ())
    assert (chunk.text, chunk.token_ids, chunk.finish_reason) == ("", (), None)
    with pytest.raises(AttributeError):
        chunk.id = "other"  # type: ignore[misc]
