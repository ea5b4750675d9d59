"""Several choices, echo and log-probabilities: what the wire carries, whole and in parts."""

import asyncio
from typing import Any

import pytest
from tests.server.artifacts import END, MANIFEST, START, write_artifact
from tests.server.live import Live, create, live_server, rest, stream
from tests.server.scripted_runner import ScriptedRunner

from cadenza.v1 import completion_pb2 as pb


async def _both(live: Live, prompt: str, **parameters: Any) -> list[pb.Choice]:
    """The choices of a unary call; asserts that the stream's parts add up to them and end as they must."""
    whole = await live.stub.CreateCompletion(create(prompt, **parameters))
    messages = await rest(live.stub.StreamCompletion(stream(prompt, **parameters)))
    joined: dict[int, pb.Choice] = {}
    for message in messages:
        for part in message.choices:
            choice = joined.setdefault(part.index, pb.Choice(index=part.index))
            assert not choice.finish_reason, "nothing follows a choice's last part"
            text = choice.text + part.text
            choice.MergeFrom(part)
            choice.text = text
    assert [joined[index] for index in sorted(joined)] == list(whole.choices)
    assert messages[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [message.HasField("usage") for message in messages[:-1]] == [False] * (len(messages) - 1)
    return list(whole.choices)


async def test_choices_come_by_index_and_usage_counts_all_of_them(live: Live) -> None:
    first, second, third = await _both(live, "a", n=3, max_tokens=4)
    assert [choice.index for choice in (first, second, third)] == [0, 1, 2]
    assert (first.text, second.text, third.text) == ("bcde", "cegi", "dgjm")
    whole = await live.stub.CreateCompletion(create("abc", n=3, max_tokens=4))
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 12)


async def test_each_choice_ends_for_its_own_reason(live: Live) -> None:
    choices = await _both(live, "v", n=3, max_tokens=5, stop_token_ids=[ord("y")])
    assert [choice.text for choice in choices] == ["wx", "xz", ""]
    assert [choice.finish_reason for choice in choices] == [
        pb.FINISH_REASON_STOP_TOKEN,
        pb.FINISH_REASON_STOP,
        pb.FINISH_REASON_STOP_TOKEN,
    ]
    assert await live.metric('cadenza_requests_finished_total{model="tiny",reason="mixed"}') == 2


async def test_choices_run_together_and_are_counted_once_each(live: Live) -> None:
    await live.stub.CreateCompletion(create("a", n=4, max_tokens=3))
    assert max(live.runner.batch_sizes) == 4
    assert await live.metric("cadenza_requests_finished_total") == 1
    assert await live.metric('cadenza_choices_finished_total{model="tiny",reason="length"}') == 4
    assert await live.metric("cadenza_generated_tokens_total") == 12
    assert await live.metric("cadenza_time_per_output_token_seconds_count") == 1
    await live.until("cadenza_kv_cache_usage_ratio", 0)


async def test_leaving_a_stream_cancels_all_its_choices(live: Live) -> None:
    live.runner.hold()
    call = live.stub.StreamCompletion(stream("a", n=4, max_tokens=100, ignore_eos=True))
    live.runner.allow(3)
    await call.read()
    call.cancel()
    await live.until("cadenza_requests_cancelled_total", 1)
    live.runner.allow()
    await live.until("cadenza_num_requests_running", 0)
    await live.until("cadenza_kv_cache_usage_ratio", 0)
    await live.still_serves()


async def test_log_probabilities_stand_beside_their_tokens(live: Live) -> None:
    (choice,) = await _both(live, "a", max_tokens=3, logprobs=2)
    found = choice.logprobs.completion
    assert [token.token_id for token in found] == list(choice.token_ids)
    assert [token.text for token in found] == ["b", "c", "d"]
    assert [token.logprob for token in found] == [-98.0, -99.0, -100.0]
    assert [(other.token_id, other.logprob) for other in found[0].alternatives] == [(0, 0), (1, -1)]
    assert not choice.logprobs.prompt


async def test_log_probabilities_of_held_back_text_still_come_with_their_tokens(live: Live) -> None:
    live.runner.hold()
    call = live.stub.StreamCompletion(stream("a", max_tokens=3, logprobs=0, stop=["bcx"]))
    texts, tokens = [], []
    for _ in range(3):
        live.runner.allow(1)
        message = await call.read()
        assert isinstance(message, pb.StreamCompletionResponse)
        texts.append(message.choices[0].text)
        tokens.append([token.text for token in message.choices[0].logprobs.completion])
    assert texts == ["", "", "bcd"]
    assert tokens == [["b"], ["c"], ["d"]]


async def test_absent_logprobs_give_none(live: Live) -> None:
    (choice,) = await _both(live, "a", max_tokens=3, echo=True)
    assert not choice.HasField("logprobs")


async def test_tokens_that_are_no_text_alone_have_replacement_characters(artifact: Any) -> None:
    runner = ScriptedRunner({ord("!"): 0xC3, 0xC3: 0xA9, 0xA9: END})
    async with live_server(artifact, runner) as live:
        (choice,) = await _both(live, "!", max_tokens=3, logprobs=0)
    assert choice.text == "é"
    assert [token.text for token in choice.logprobs.completion] == ["\ufffd", "\ufffd", "<|end|>"]


async def test_echo_begins_every_choice_with_the_prompt_once(live: Live) -> None:
    first, second = await _both(live, "héa", n=2, max_tokens=2, echo=True)
    assert (first.text, second.text) == ("héabc", "héace")
    assert list(first.token_ids) == [ord("b"), ord("c")]


async def test_echo_with_log_probabilities_has_those_of_the_prompt_in_choice_0(live: Live) -> None:
    first, second = await _both(live, "abcd", n=2, max_tokens=1, echo=True, logprobs=1)
    prompt = first.logprobs.prompt
    assert [token.text for token in prompt] == list("abcd")
    assert not prompt[0].HasField("logprob")
    assert [token.logprob for token in prompt[1:]] == [-98.0, -99.0, -100.0]
    assert [len(token.alternatives) for token in prompt] == [0, 1, 1, 1]
    assert [token.text for token in first.logprobs.completion] == ["e"]
    assert not second.logprobs.prompt
    assert [token.text for token in second.logprobs.completion] == ["f"]


@pytest.mark.parametrize("prompt", ["a", "a" * 100])
async def test_every_prompt_token_has_its_entry_however_long_the_prompt(live: Live, prompt: str) -> None:
    (choice,) = await _both(live, prompt, max_tokens=2, echo=True, logprobs=0)
    assert "".join(token.text for token in choice.logprobs.prompt) == prompt
    assert [token.HasField("logprob") for token in choice.logprobs.prompt] == [False] + [True] * (
        len(prompt) - 1
    )


async def test_echo_writes_special_tokens_but_not_the_one_that_the_server_adds(tmp_path: Any) -> None:
    tokenizer = {"bos_token_id": START, "eos_token_ids": [END], "add_bos_token": True}
    artifact = write_artifact(tmp_path / "tiny" / "1", {**MANIFEST, "tokenizer": tokenizer})
    async with live_server(artifact, ScriptedRunner()) as live:
        assert await live.text("x<|end|>a", max_tokens=1, echo=True) == "x<|end|>ab"
        chat = pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")]))
        parameters = pb.CompletionParameters(max_tokens=1, echo=True)
        request = pb.CreateCompletionRequest(prompt=chat, parameters=parameters)
        response = await live.stub.CreateCompletion(request)
        assert response.choices[0].text == "<|start|>user:hi|ab"


async def test_cached_prompt_tokens_are_reported_and_the_opt_out_is_kept(live: Live) -> None:
    prompt = "a" * 16
    for cache, cached in ((False, 0), (True, 0), (False, 0), (True, 12), (None, 12)):
        parameters = {} if cache is None else {"cache_prompt": cache}
        response = await live.stub.CreateCompletion(create(prompt, max_tokens=1, **parameters))
        assert response.usage.cached_prompt_tokens == cached
    assert await live.metric("cadenza_prefix_cache_queried_tokens_total") == 3 * 16
    assert await live.metric("cadenza_prefix_cache_hit_tokens_total") == 2 * 12
    assert await live.metric("cadenza_cached_prompt_tokens_total") == 2 * 12


async def test_sampling_fields_reach_the_runner(live: Live) -> None:
    parameters = {
        "repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.25,
        "logit_bias": {9: -3.0, 7: 1.5}, "seed": 11, "logprobs": 4,
    }  # fmt: skip
    await live.text("ab", max_tokens=2, **parameters)
    first, second = live.runner.slices
    assert first.sampling is not None
    assert first.sampling.repetition_penalty == 1.5
    assert (first.sampling.presence_penalty, first.sampling.frequency_penalty) == (0.5, -0.25)
    assert first.sampling.logit_bias == ((7, 1.5), (9, -3.0))
    assert (first.sampling.seed, first.sampling.logprobs) == (11, 4)
    assert (list(second.history), second.prompt_length) == ([*b"abc"], 2)


async def test_a_seed_is_drawn_once_per_request_where_none_is_given(live: Live) -> None:
    await asyncio.gather(*(live.text("a", n=2, max_tokens=2) for _ in range(2)))
    seeds = [one.sampling.seed for one in live.runner.slices if one.sampling is not None]
    assert len(set(seeds)) == 2
