"""What a caller gets: text, tokens, reasons, usage, the same whole or in parts."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.server.artifacts import END, MANIFEST, START, VOCABULARY_SIZE, write_artifact
from tests.server.live import Live, answer, create, health_stub, live_server, rest, stream
from tests.server.scripted_runner import ScriptedRunner

from cadenza.v1 import completion_pb2 as pb


async def test_completion_ends_at_max_tokens_with_usage_and_timing(live: Live) -> None:
    response = await live.stub.CreateCompletion(create("ab", max_tokens=4))
    choice = response.choices[0]
    assert (choice.index, choice.text, list(choice.token_ids)) == (0, "cdef", [99, 100, 101, 102])
    assert choice.finish_reason == pb.FINISH_REASON_LENGTH
    usage = response.usage
    assert (usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens) == (2, 0, 4)
    timing = response.timing
    first = timing.queue.ToNanoseconds() + timing.prefill.ToNanoseconds()
    assert abs(timing.time_to_first_token.ToNanoseconds() - first) <= 2
    assert response.model == "tiny"


async def test_absent_max_tokens_is_the_models_default_or_what_room_there_is(live: Live) -> None:
    assert await live.text("a") == "bcdef"
    response = await live.stub.CreateCompletion(create("a" * 126))
    assert response.usage.completion_tokens == 2


async def test_end_token_stops_and_is_reported_but_has_no_text(live: Live) -> None:
    response = await live.stub.CreateCompletion(create("xy", max_tokens=9))
    assert response.choices[0].text == "z"
    assert list(response.choices[0].token_ids) == [ord("z"), END]
    assert response.choices[0].finish_reason == pb.FINISH_REASON_STOP


async def test_ignore_eos_goes_on_after_the_end_token(live: Live) -> None:
    response = await live.stub.CreateCompletion(create("y", max_tokens=4, ignore_eos=True))
    assert list(response.choices[0].token_ids)[:2] == [ord("z"), END]
    assert response.choices[0].finish_reason == pb.FINISH_REASON_LENGTH


async def test_stop_string_is_cut_off_and_stop_token_is_named(live: Live) -> None:
    stopped = await live.stub.CreateCompletion(create("a", max_tokens=20, stop=["zz", "ef"]))
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("bcd", pb.FINISH_REASON_STOP)
    stopped = await live.stub.CreateCompletion(create("a", max_tokens=20, stop_token_ids=[ord("d")]))
    assert stopped.choices[0].text == "bc"
    assert stopped.choices[0].finish_reason == pb.FINISH_REASON_STOP_TOKEN


async def test_stream_gives_the_same_text_tokens_usage_as_the_unary_call(live: Live) -> None:
    whole = await live.stub.CreateCompletion(create("a", max_tokens=20, stop=["mn"]))
    call = live.stub.StreamCompletion(stream("a", max_tokens=20, stop=["mn"]))
    messages = await rest(call)
    assert "".join(m.choices[0].text for m in messages) == whole.choices[0].text == "bcdefghijkl"
    assert [i for m in messages for i in m.choices[0].token_ids] == list(whole.choices[0].token_ids)
    *parts, last = messages
    assert last.choices[0].finish_reason == pb.FINISH_REASON_STOP
    assert last.usage == whole.usage
    assert last.HasField("timing")
    for part in parts:
        assert part.choices[0].finish_reason == pb.FINISH_REASON_UNSPECIFIED
        assert not part.HasField("usage")
        assert not part.HasField("timing")
        assert part.choices[0].token_ids


async def test_each_step_reaches_the_client_before_the_next(live: Live) -> None:
    live.runner.hold()
    call = live.stub.StreamCompletion(stream("a", max_tokens=3))
    for expected in "bcd":
        live.runner.allow(1)
        assert await _read_text(call) == expected


async def test_stream_never_splits_a_character(artifact: Path) -> None:
    runner = ScriptedRunner({ord("!"): 0xC3, 0xC3: 0xA9, 0xA9: ord("!")})
    async with live_server(artifact, runner) as live:
        runner.hold()
        call = live.stub.StreamCompletion(stream("!", max_tokens=4))
        texts = []
        for _ in range(4):
            runner.allow(1)
            texts.append(await _read_text(call))
        assert texts == ["", "é", "!", "\ufffd"]


async def test_parts_not_yet_taken_are_sent_as_one_message(live: Live) -> None:
    live.runner.hold()
    first = live.stub.StreamCompletion(stream("a", max_tokens=120, ignore_eos=True))
    await live.begun(1)
    live.runner.allow()
    messages = await rest(first)
    assert sum(len(m.choices[0].token_ids) for m in messages) == 120


async def test_concurrent_streams_get_what_they_get_alone_and_share_steps(live: Live) -> None:
    prompts = ["a", "bcd", "hello", "p", "qrs", "tt", "zzk", "m"]
    alone = [await live.text(prompt, max_tokens=7) for prompt in prompts]
    live.runner.hold()
    calls = [asyncio.ensure_future(live.text(prompt, max_tokens=7)) for prompt in prompts]
    await live.until("cadenza_num_requests_waiting", len(prompts))
    live.runner.allow()
    assert await asyncio.gather(*calls) == alone
    assert max(live.runner.batch_sizes) == 4
    assert await live.metric("cadenza_kv_cache_usage_ratio") == 0


async def test_chat_is_rendered_by_the_models_template(live: Live) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    response = await live.stub.CreateCompletion(pb.CreateCompletionRequest(prompt=pb.Prompt(chat=chat)))
    assert response.choices[0].text == "bcdef"
    counted = await live.stub.CountTokens(pb.CountTokensRequest(prompt=pb.Prompt(chat=chat)))
    assert list(counted.token_ids) == [256, *b"user:hi|a"]


async def test_count_tokens_takes_text_longer_than_the_context(live: Live) -> None:
    counted = await live.stub.CountTokens(pb.CountTokensRequest(prompt=pb.Prompt(text="é" * 5000)))
    assert counted.prompt_tokens == len(counted.token_ids) == 10_000


async def test_token_ids_are_used_as_they_are(live: Live) -> None:
    ids = pb.TokenIds(ids=[256, ord("k")])
    response = await live.stub.CreateCompletion(pb.CreateCompletionRequest(prompt=pb.Prompt(token_ids=ids)))
    assert response.choices[0].text == "lmnop"
    assert response.usage.prompt_tokens == 2


async def test_models_say_what_they_are(live: Live) -> None:
    listed = await live.stub.ListModels(pb.ListModelsRequest())
    model = (await live.stub.GetModel(pb.GetModelRequest(model="tiny"))).model
    assert [model] == list(listed.models)
    assert (model.name, model.version, model.family, model.precision) == ("tiny", 7, "llama", "int8")
    assert (model.vocabulary_size, model.max_context, model.default_max_tokens) == (VOCABULARY_SIZE, 128, 5)
    assert model.has_chat_template
    assert list(model.eos_token_ids) == [END]


async def test_add_bos_token_goes_before_text_but_not_before_chat(tmp_path: Path) -> None:
    manifest = {
        **MANIFEST,
        "tokenizer": {"bos_token_id": START, "eos_token_ids": [END], "add_bos_token": True},
    }
    artifact = write_artifact(tmp_path / "tiny" / "1", manifest, chat=False)
    async with live_server(artifact, ScriptedRunner()) as live:
        counted = await live.stub.CountTokens(pb.CountTokensRequest(prompt=pb.Prompt(text="ab")))
        assert list(counted.token_ids) == [START, *b"ab"]
        chat = pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")]))
        with pytest.raises(grpc.aio.AioRpcError, match="has no chat template"):
            await live.stub.CountTokens(pb.CountTokensRequest(prompt=chat))
        await live.still_serves()


@pytest.mark.parametrize("given", ["my-id 42", "x" * 128])
async def test_request_id_of_the_caller_comes_back(live: Live, given: str) -> None:
    call = live.stub.CreateCompletion(create("a"), metadata=(("x-request-id", given),))
    assert dict(await call.initial_metadata())["x-request-id"] == given
    assert (await call).request_id == given


@pytest.mark.parametrize("given", ["x" * 129, ""])
async def test_unfit_request_id_is_replaced(live: Live, given: str) -> None:
    response = await live.stub.CreateCompletion(create("a"), metadata=(("x-request-id", given),))
    assert len(response.request_id) == 32


async def test_two_calls_with_the_same_request_id_do_not_meet(live: Live) -> None:
    same = (("x-request-id", "same"),)
    live.runner.hold()
    calls = [live.stub.CreateCompletion(create(prompt), metadata=same) for prompt in ("a", "k")]
    waiting = [asyncio.ensure_future(answer(call)) for call in calls]
    await live.begun(1)
    live.runner.allow()
    assert await asyncio.gather(*waiting) == ["bcdef", "lmnop"]


async def test_health_and_reflection_answer(live: Live) -> None:
    health = health_stub(live.channel)
    for service in ("", "cadenza.v1.CompletionService"):
        checked = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health.Check(health_pb2.HealthCheckRequest(service="nosuch"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    reflection: Any = reflection_pb2_grpc
    call = reflection.ServerReflectionStub(live.channel).ServerReflectionInfo(iter([asked]))
    answers = [one async for one in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"cadenza.v1.CompletionService", "grpc.health.v1.Health"} <= names


async def _read_text(call: "grpc.aio.UnaryStreamCall[Any, pb.StreamCompletionResponse]") -> str:
    message = await call.read()
    assert isinstance(message, pb.StreamCompletionResponse)
    return message.choices[0].text
