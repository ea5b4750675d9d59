"""Who goes first, and who is told at once that it cannot be in time."""

import asyncio
import dataclasses
from pathlib import Path

import grpc
import pytest
from tests.server.live import HandClock, Live, answer, create, live_server, read_error
from tests.server.scripted_runner import LIMITS, ScriptedRunner

from cadenza.server.rpc.call import client_id

ONE_AT_A_TIME = dataclasses.replace(LIMITS, max_sequences=1)


def _prompts(runner: ScriptedRunner) -> str:
    """The first letters of the prompts, in the order in which they were computed."""
    return "".join(chr(one.token_ids[0]) for one in runner.slices if one.start == 0)


async def test_higher_priority_goes_first_whatever_came_first(artifact: Path) -> None:
    runner = ScriptedRunner(limits=ONE_AT_A_TIME)
    async with live_server(artifact, runner) as live:
        runner.hold()
        calls = [asyncio.ensure_future(live.text("a", priority=100))]
        await live.begun(1)
        for count, (prompt, priority) in enumerate((("k", -1), ("l", 0), ("m", 7)), start=2):
            calls.append(asyncio.ensure_future(live.text(prompt, priority=priority)))
            await live.until("cadenza_num_requests_waiting", count)
        runner.allow()
        await asyncio.gather(*calls)
    assert _prompts(runner) == "amlk"


async def test_clients_take_turns_however_much_one_of_them_asks(artifact: Path) -> None:
    runner = ScriptedRunner(limits=ONE_AT_A_TIME)
    async with live_server(artifact, runner) as live:
        runner.hold()
        calls = []
        work = [("a", "busy"), ("b", "busy"), ("c", "busy"), ("k", "other"), ("l", "other")]
        for count, (prompt, client) in enumerate(work, start=1):
            call = live.stub.CreateCompletion(create(prompt), metadata=(("cadenza-client-id", client),))
            calls.append(asyncio.ensure_future(answer(call)))
            await live.until("cadenza_num_requests_waiting", count)
        runner.allow()
        await asyncio.gather(*calls)
    assert _prompts(runner) == "akblc"


async def test_a_weight_gives_a_client_more_turns(artifact: Path) -> None:
    runner = ScriptedRunner(limits=ONE_AT_A_TIME)
    async with live_server(artifact, runner, client_weight=("paying=2",)) as live:
        runner.hold()
        calls = []
        work = [(prompt, "free") for prompt in "abc"] + [(prompt, "paying") for prompt in "klmn"]
        for count, (prompt, client) in enumerate(work, start=1):
            call = live.stub.CreateCompletion(create(prompt), metadata=(("cadenza-client-id", client),))
            calls.append(asyncio.ensure_future(answer(call)))
            await live.until("cadenza_num_requests_waiting", count)
        runner.allow()
        await asyncio.gather(*calls)
    assert _prompts(runner).replace("m", "l").replace("n", "l").replace("k", "l")[:6] == "allbll"


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.0.0.7:50144", "10.0.0.7"),
        ("ipv6:%5B2001:db8::1%5D:50144", "2001:db8::1"),
        ("ipv6:[::1]:50144", "::1"),
        ("unix:/run/socket", "unix:/run/socket"),
    ],
)
def test_without_a_client_id_the_host_stands_for_the_client(peer: str, client: str) -> None:
    assert client_id((("x-request-id", "r"),), peer) == client


async def _measure(live: Live, clock: HandClock, seconds: float) -> None:
    """Lets the server see that a step of one token takes so long."""
    live.runner.hold()
    call = asyncio.ensure_future(live.text("a", max_tokens=1))
    await live.begun(live.runner.begun + 1)
    clock.now += seconds
    live.runner.allow()
    assert await call == "b"


async def test_a_deadline_out_of_reach_is_refused_at_once_and_others_are_served(artifact: Path) -> None:
    clock, runner = HandClock(), ScriptedRunner()
    async with live_server(artifact, runner, clock) as live:
        sure = create("a", max_tokens=50, ignore_eos=True)
        assert (await live.stub.CreateCompletion(sure, timeout=10)).choices, "nothing is measured yet"
        clock.now += 61
        await _measure(live, clock, seconds=1.0)
        begun = runner.begun
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await live.stub.CreateCompletion(sure, timeout=10)
        error = read_error(raised.value)
        assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE")
        assert error.info.metadata["estimated_seconds"] == "50.000"
        assert float(error.info.metadata["seconds_left"]) == pytest.approx(10, abs=1)
        assert runner.begun == begun
        assert await live.metric('cadenza_requests_rejected_total{reason="DEADLINE_UNREACHABLE"}') == 1
        for reachable in (create("a", max_tokens=5), create("a", max_tokens=50)):
            assert (await live.stub.CreateCompletion(reachable, timeout=10)).choices
        clock.now += 61
        assert (await live.stub.CreateCompletion(sure, timeout=10)).choices, "old measurements are forgotten"


async def test_a_deadline_that_what_waits_makes_unreachable_is_refused_unless_priority_passes_it(
    artifact: Path,
) -> None:
    clock, runner = HandClock(), ScriptedRunner(limits=ONE_AT_A_TIME)
    async with live_server(artifact, runner, clock) as live:
        runner.hold()
        measured = asyncio.ensure_future(live.text("x" * 64, max_tokens=1, cache_prompt=False))
        await live.begun(1)
        clock.now += 2
        runner.allow(1)
        await measured
        running = asyncio.ensure_future(live.text("a", max_tokens=100, priority=100))
        await live.begun(2)
        long = [asyncio.ensure_future(live.text("k" * 127, cache_prompt=False)) for _ in range(2)]
        await live.until("cadenza_num_requests_waiting", 3)
        late = live.stub.CreateCompletion(create("q", cache_prompt=False), timeout=5)
        assert await answer(late) == "DEADLINE_UNREACHABLE"
        first = live.stub.CreateCompletion(create("q", priority=1), timeout=5)
        waiting = asyncio.ensure_future(answer(first))
        await live.until("cadenza_num_requests_waiting", 4)
        runner.allow()
        assert await waiting == "rstuv"
        await asyncio.gather(running, *long)


async def test_what_waits_is_told_without_a_step_that_it_can_no_longer_be_in_time(artifact: Path) -> None:
    clock, runner = HandClock(), ScriptedRunner(limits=ONE_AT_A_TIME)
    async with live_server(artifact, runner, clock) as live:
        runner.hold()
        running = asyncio.ensure_future(live.text("a", max_tokens=20, priority=1))
        await live.begun(1)
        sure = create("k", max_tokens=10, ignore_eos=True)
        waiting = asyncio.ensure_future(answer(live.stub.CreateCompletion(sure, timeout=30)))
        await live.until("cadenza_num_requests_waiting", 2)
        clock.now += 4
        runner.allow(1)
        # A step took 4 s: 9 more tokens would take 36 s, and 26 s are left.
        assert await waiting == "DEADLINE_UNREACHABLE"
        runner.allow()
        await running
        await live.until("cadenza_num_requests_waiting", 0)
        assert _prompts(runner) == "a"
