"""What a reader of a stream gets, however late it reads."""

import asyncio

from cadenza.server.engine.request import Finished, FinishReason, Progress, Request, Timing, TokenLogprob
from cadenza.server.streams import Part, Stream

FINISHED = Finished("key", 1, 0, 5, Timing(0, 1, 2, 3))


def _stream() -> Stream:
    return Stream(Request("id", (1,), 5, arrival_time=0), "key", lambda _: None)


async def test_slow_reader_gets_everything_in_few_parts() -> None:
    slow = _stream()
    for token in b"abc":
        slow.push(Progress("key", 0, (token,), chr(token)), 1.0)
    assert await slow.next_part() == Part((Progress("key", 0, (97, 98, 99), "abc"),))
    slow.push(Progress("key", 0, (100,), "d"))
    slow.push(Progress("key", 0, (101,), "e", finish_reason=FinishReason.LENGTH))
    slow.end(FINISHED)
    last = Progress("key", 0, (100, 101), "de", finish_reason=FinishReason.LENGTH)
    assert await slow.next_part() == Part((last,), FINISHED)


async def test_what_comes_sooner_than_the_spacing_is_told_with_what_comes_later() -> None:
    stream = _stream()
    parts = []
    for token, now in zip(b"abcdef", (1.0, 1.1, 1.2, 1.5, 1.6, 1.7), strict=True):
        reading = asyncio.ensure_future(stream.next_part())
        await asyncio.sleep(0)
        stream.push(Progress("key", 0, (token,), chr(token)), now, spacing=0.5)
        await asyncio.sleep(0)
        if reading.done():
            parts.append(reading.result().choices[0].text)
        else:
            reading.cancel()
    assert parts == ["a", "bcd"]
    stream.tell()  # as where the engine makes a pause
    assert (await stream.next_part()).choices[0].text == "ef"


async def test_an_end_waits_for_no_spacing() -> None:
    stream = _stream()
    for token, reason in ((97, None), (98, None), (99, FinishReason.STOP)):
        stream.push(Progress("key", 0, (token,), chr(token), finish_reason=reason), 1.0, spacing=60)
    assert (await stream.next_part()).choices[0].token_ids == (97, 98, 99)


async def test_parts_hold_the_choices_that_have_news_by_index() -> None:
    stream = _stream()
    stream.push(Progress("key", 2, (1,), "x"))
    stream.push(Progress("key", 0, (2,), "y", (TokenLogprob(2, -1.0),)))
    stream.push(Progress("key", 0, (3,), "z", (TokenLogprob(3, -2.0),)))
    part = await stream.next_part()
    assert [choice.choice for choice in part.choices] == [0, 2]
    assert part.choices[0].logprobs == (TokenLogprob(2, -1.0), TokenLogprob(3, -2.0))
    stream.push(Progress("key", 1, (4,), "w"))
    assert [choice.choice for choice in (await stream.next_part()).choices] == [1]


async def test_result_is_the_whole_answer_and_wakes_once() -> None:
    stream = _stream()
    waiting = asyncio.ensure_future(stream.result())
    await asyncio.sleep(0)
    for choice in (1, 0):
        stream.push(Progress("key", choice, (choice,), "", finish_reason=FinishReason.STOP))
    await asyncio.sleep(0)
    assert not waiting.done()
    stream.end(FINISHED)
    whole = await waiting
    assert [choice.choice for choice in whole.choices] == [0, 1]
    assert whole.finished == FINISHED
