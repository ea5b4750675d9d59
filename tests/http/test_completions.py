"""Completions by OpenAI's client: after each letter of the prompt comes the next."""

import asyncio
from typing import Any

import openai
import pytest
from tests.http.clients import base_url
from tests.server.live import Live, create


async def test_a_completion_says_its_text_its_end_and_what_it_used(client: openai.AsyncOpenAI) -> None:
    done = await client.completions.create(model="tiny", prompt="a", max_tokens=3)
    assert (done.object, done.model, done.system_fingerprint) == ("text_completion", "tiny", "tiny@7-int8")
    assert [(choice.index, choice.text, choice.finish_reason) for choice in done.choices] == [
        (0, "bcd", "length")
    ]
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (1, 3, 4)


async def test_the_synchronous_client_works_too(live: Live) -> None:
    def complete() -> list[str]:
        with openai.OpenAI(base_url=base_url(live), api_key="none") as client:
            whole = client.completions.create(model="tiny", prompt="a", max_tokens=3)
            pieces = client.completions.create(model="tiny", prompt="a", max_tokens=3, stream=True)
            return [whole.choices[0].text, "".join(piece.choices[0].text for piece in pieces)]

    assert await asyncio.to_thread(complete) == ["bcd", "bcd"]


async def test_a_stream_ends_every_choice_and_then_says_the_usage(client: openai.AsyncOpenAI) -> None:
    texts, ends, usages = ["", ""], [], []
    stream = await client.completions.create(
        model="tiny", prompt="a", max_tokens=3, n=2, stream=True, stream_options={"include_usage": True}
    )
    async for piece in stream:
        usages.append(piece.usage)
        for choice in piece.choices:
            texts[choice.index] += choice.text
            ends.append(choice.finish_reason)
    assert texts == ["bcd", "ceg"]
    assert [end for end in ends if end] == ["length", "length"]
    assert usages[:-1] == [None] * (len(usages) - 1)
    assert usages[-1] is not None
    assert (usages[-1].prompt_tokens, usages[-1].completion_tokens) == (1, 6)


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_of_a_batch_are_numbered_one_after_the_other(
    client: openai.AsyncOpenAI, *, stream: bool
) -> None:
    made: Any = await client.completions.create(
        model="tiny", prompt=["a", "k"], n=2, max_tokens=2, stream=stream
    )
    texts = [""] * 4
    for piece in [piece async for piece in made] if stream else [made]:
        for choice in piece.choices:
            texts[choice.index] += choice.text
    assert texts == ["bc", "ce", "lm", "mo"]


async def test_token_ids_are_taken_as_they_are(client: openai.AsyncOpenAI) -> None:
    one = await client.completions.create(model="tiny", prompt=[97], max_tokens=2)
    two = await client.completions.create(model="tiny", prompt=[[97], [107]], max_tokens=2)
    assert [choice.text for choice in (*one.choices, *two.choices)] == ["bc", "bc", "lm"]


async def test_stop_texts_end_a_completion_and_are_not_part_of_it(client: openai.AsyncOpenAI) -> None:
    one = await client.completions.create(model="tiny", prompt="a", max_tokens=9, stop="d")
    several = await client.completions.create(model="tiny", prompt="a", max_tokens=9, stop=["xy", "ef"])
    by_token = await client.completions.create(
        model="tiny", prompt="a", max_tokens=9, extra_body={"stop_token_ids": [101]}
    )
    ends = [(done.choices[0].text, done.choices[0].finish_reason) for done in (one, several, by_token)]
    assert ends == [("bc", "stop"), ("bcd", "stop"), ("bcd", "stop")]


async def test_the_models_end_token_is_ignored_where_that_is_asked_for(client: openai.AsyncOpenAI) -> None:
    ends = [
        await client.completions.create(model="tiny", prompt="y", max_tokens=4, extra_body=extra)
        for extra in ({}, {"ignore_eos": True})
    ]
    assert [end.choices[0].finish_reason for end in ends] == ["stop", "length"]


async def test_echo_with_logprobs_tells_of_every_token_where_it_begins(client: openai.AsyncOpenAI) -> None:
    done = await client.completions.create(
        model="tiny", prompt="ké", max_tokens=1, n=2, echo=True, logprobs=1
    )
    assert [choice.text for choice in done.choices] == ["k\u00e9\ufffd", "k\u00e9\ufffd"]
    for choice, token in zip(done.choices, (170, 171), strict=True):
        found: Any = choice.logprobs
        assert found.tokens == ["k", "\ufffd", "\ufffd", "\ufffd"]
        assert found.text_offset == [0, 1, 1, 2]
        assert found.token_logprobs == [None, -195, -169, -token]
        assert found.top_logprobs[0] is None
        assert found.top_logprobs[1] == {"\x00": 0, "\ufffd": -195}


async def test_every_parameter_reaches_the_sampler(live: Live, client: openai.AsyncOpenAI) -> None:
    await client.completions.create(
        model="tiny", prompt="a", max_tokens=1, temperature=0.5, top_p=0.25, seed=-1, presence_penalty=1,
        frequency_penalty=-1, logit_bias={"98": 5},
        extra_body={"top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5, "priority": 3},
    )  # fmt: skip
    sampling = live.runner.slices[-1].sampling
    assert sampling is not None
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.25, 7, 0.125)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (
        1,
        -1,
        1.5,
    )
    assert (sampling.logit_bias, sampling.seed) == (((98, 5.0),), 2**64 - 1)


async def test_the_request_is_the_one_that_grpc_makes(live: Live, client: openai.AsyncOpenAI) -> None:
    await client.completions.create(model="tiny@7", prompt="a", max_tokens=2, seed=5, temperature=0.7)
    over_http = [(one.token_ids, one.sampling) for one in live.runner.slices]
    live.runner.slices.clear()
    await live.stub.CreateCompletion(create("a", max_tokens=2, seed=5, temperature=0.7))
    assert [(one.token_ids, one.sampling) for one in live.runner.slices] == over_http


async def test_models_are_listed_and_found_by_name_and_version(client: openai.AsyncOpenAI) -> None:
    assert [model.id for model in (await client.models.list()).data] == ["tiny"]
    assert (await client.models.retrieve("tiny@7")).owned_by == "cadenza"
    with pytest.raises(openai.NotFoundError, match="its versions are: 7"):
        await client.models.retrieve("tiny@8")
