"""The generator against a real server: who is sent when, what is noted. Time moves by hand."""

import asyncio
import dataclasses
import os
import pickle

import pytest
from tests.load.scripted import HandClock, HeldServer, held_server, sender_to

from cadenza.client import InvalidOption, Message, Unauthenticated
from cadenza.load import LoadError, closed_loop, summarise
from cadenza.load._arrivals import EVEN, Rate, Renewal, Replay
from cadenza.load._connection import Sender, connected
from cadenza.load._counts import FINISHED, TOKENS, LiveCounts
from cadenza.load._generator import NOT_SENT, Part, generate
from cadenza.load._measure import reasons_against
from cadenza.load._plan import ClosedLoop, LoadPlan, OpenLoop
from cadenza.load._processes import run_load
from cadenza.load._workload import LoadPrompt, given_prompts
from cadenza.v1 import completion_pb2 as pb


def open_loop(server: HeldServer, *arrivals: float, most: int = 100) -> LoadPlan:
    workload = given_prompts(server.settings, ["x"], [{}])
    return LoadPlan(server.settings, workload, OpenLoop(Replay(arrivals, 1e9)), max_in_flight=most)


async def test_a_stalled_server_shows_in_the_ttft_of_every_request_that_was_due_meanwhile() -> None:
    """Ten requests a second, none answered until 1.5 s. A closed loop would have seen one bad request."""
    clock = HandClock()
    due = tuple(index / 10 for index in range(1, 11))
    async with held_server(1, 1) as server, sender_to(server, clock) as sender:
        load = asyncio.create_task(generate(open_loop(server, *due), sender, clock))
        for count, at in enumerate(due, start=1):
            await clock.slept_on(by=2)
            clock.move_to(at)
            await server.received(count)
        clock.move_to(1.5)
        await server.release()
        records = (await load).records
    assert [record.ttft for record in records] == pytest.approx([1.5 - at for at in due])
    assert [record.lag for record in records] == pytest.approx([0.0] * 10)
    summary = summarise(records)
    assert summary.ttft is not None
    assert (summary.ttft.p50, summary.ttft.p99) == pytest.approx((0.95, 1.391))
    assert [record.tpot for record in records] == pytest.approx([0.0] * 10)


async def test_a_late_generator_counts_from_the_scheduled_arrival_and_says_so() -> None:
    clock = HandClock()
    async with held_server() as server, sender_to(server, clock) as sender:
        await server.release()
        load = asyncio.create_task(generate(open_loop(server, 1.0, 2.0, 3.0), sender, clock))
        await clock.slept_on(by=2)  # the first request, and who watches the loop
        clock.move_to(5.0)
        generated = await load
    assert [record.lag for record in generated.records] == [4.0, 3.0, 2.0]
    assert [record.ttft for record in generated.records] == [4.0, 3.0, 2.0]
    (reason, late) = reasons_against(summarise(generated.records), generated.use.loop_lateness, max_lag=0.02)
    assert "requests were sent late: 3980.0 ms at p99, at most 20 ms is allowed" in reason
    assert "answers were noted late" in late
    assert reasons_against(summarise(generated.records), [], max_lag=4.0) == ()


async def test_what_has_no_place_in_flight_is_not_sent_and_the_run_is_invalid() -> None:
    clock = HandClock()
    async with held_server() as server, sender_to(server, clock) as sender:
        load = asyncio.create_task(generate(open_loop(server, 0.0, 0.0, 0.0, most=2), sender, clock))
        await server.received(2)
        await server.release()
        records = (await load).records
        assert len(server.requests) == 2
    assert [record.error for record in records] == ["", "", NOT_SENT]
    (reason,) = reasons_against(summarise(records), [], max_lag=1.0)
    assert reason == "1 requests were not sent: too many were in flight"


async def test_a_request_notes_its_tokens_and_what_the_server_said_of_it() -> None:
    clock = HandClock()
    async with held_server(2, 3) as server, sender_to(server, clock) as sender:
        await server.release()
        (record,) = (await generate(open_loop(server, 0.0), sender, clock)).records
    assert [message.tokens for message in record.messages] == [2, 3]
    assert (record.tokens, record.prompt_tokens, record.cached_tokens, record.queue) == (5, 7, 2, 0.003)


async def test_a_closed_loop_keeps_so_many_streams_and_ends_after_its_requests() -> None:
    async with held_server() as server:
        plan = LoadPlan(
            server.settings, given_prompts(server.settings, ["x"], [{}]), ClosedLoop(3, requests=10)
        )
        load = asyncio.create_task(run_load(plan))
        await server.received(3)
        await server.release()
        records = (await load).records
        assert server.most_at_once == 3
    assert [record.index for record in records] == list(range(10))
    assert {record.error for record in records} == {""}


async def test_a_closed_loop_begins_nothing_after_its_time() -> None:
    clock = HandClock()
    async with held_server() as server, sender_to(server, clock) as sender:
        plan = LoadPlan(
            server.settings, given_prompts(server.settings, ["x"], [{}]), ClosedLoop(2, seconds=10)
        )
        load = asyncio.create_task(generate(plan, sender, clock))
        await server.received(2)
        clock.move_to(10.0)
        await server.release()
        assert [record.latency for record in (await load).records] == [10.0, 10.0]


async def test_every_prompt_is_sent_as_what_it_is() -> None:
    prompts: list[LoadPrompt] = ["text", [1, 2, 3], [Message("user", "hi")]]
    async with held_server() as server:
        await server.release()
        records = await closed_loop(server.settings.target, prompts, concurrency=2, options={"max_tokens": 4})
        kinds = sorted(str(request.prompt.WhichOneof("kind")) for request in server.requests)
        assert {request.parameters.max_tokens for request in server.requests} == {4}
    assert kinds == ["chat", "text", "token_ids"]
    assert [record.tokens for record in records] == [2, 2, 2]


async def test_processes_share_a_load_out_and_begin_together() -> None:
    async with held_server(1, 2) as server:
        await server.release()
        arrivals = Renewal(Rate(40, 40, 0.51), EVEN)
        plan = LoadPlan(server.settings, given_prompts(server.settings, ["x"], [{}]), OpenLoop(arrivals))
        counts = LiveCounts(2)
        generated = await run_load(plan, counts)
        assert len(server.requests) == 20
    assert [record.index for record in generated.records] == list(range(20))
    assert [record.scheduled for record in generated.records] == list(arrivals.times())
    assert {record.error for record in generated.records} == {""}
    assert (counts.total(FINISHED), counts.total(TOKENS), counts.running) == (20, 60, 0)
    assert all(own[FINISHED] == 10 for own in counts.slots)


def test_the_parts_of_a_load_are_all_of_it() -> None:
    parts = [Part(number, 3) for number in range(3)]
    assert sum(part.share(10) for part in parts) == 10
    assert [next(part.indices()) for part in parts] == [0, 1, 2]


async def test_a_load_without_a_server_says_so() -> None:
    with pytest.raises(LoadError, match="localhost:1 is not ready"):
        await closed_loop("localhost:1", ["x"], concurrency=1)


async def test_wrong_arguments_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="concurrency is 0"):
        await closed_loop("localhost:1", ["x"], concurrency=0)
    with pytest.raises(ValueError, match="there are no prompts"):
        await closed_loop("localhost:1", [], concurrency=1)
    with pytest.raises(InvalidOption, match="prompt"):
        await closed_loop("localhost:1", [[2**31]], concurrency=1)


async def test_a_plan_travels_to_other_processes_whole() -> None:
    async with held_server() as server:
        plan = open_loop(server, 0.5)
        assert pickle.loads(pickle.dumps(plan)) == plan


async def test_a_request_without_its_token_fails_alone() -> None:
    def vanished() -> str:
        raise Unauthenticated("the token file is gone", reason="NO_TOKEN")

    clock = HandClock()
    async with held_server() as server:
        settings = dataclasses.replace(server.settings, token=vanished)
        async with connected(server.settings) as stubs:
            sender = Sender(settings, stubs, clock, LiveCounts().slots[0])
            records = (await generate(open_loop(server, 0.0, 0.0), sender, clock)).records
    assert [record.error for record in records] == ["NO_TOKEN", "NO_TOKEN"]


class _Deadly:
    """A workload that ends the process which asks it for a request."""

    def request(self, index: int) -> pb.StreamCompletionRequest:
        os._exit(9)

    def renewed(self) -> "_Deadly":
        return self


async def test_a_process_that_dies_ends_the_load_with_an_error() -> None:
    async with held_server() as server:
        plan = LoadPlan(server.settings, _Deadly(), ClosedLoop(2, requests=2))
        with pytest.raises(LoadError, match="a process of the load died"):
            await run_load(plan, LiveCounts(2))
