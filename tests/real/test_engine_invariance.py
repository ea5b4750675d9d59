"""The engine on the real model: a request's answer does not depend on when it comes and what else runs.

200 requests with seeds and every option are answered alone, then together, in random orders of arrival, in a
KV pool so small that sequences are preempted, with the prefix cache and without. Everything that a client
could see is compared as it is: tokens, texts, reasons, log-probabilities.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.real.checks import Reference
from tests.real.cpu_program import load_runner

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import (
    GREEDY,
    Finished,
    FinishReason,
    Progress,
    Request,
    SamplingParams,
    StepReport,
    Submit,
    TokenLogprob,
)
from cadenza.server.runner.base import Runner
from cadenza.server.tokenizer import Tokenizer

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

REQUESTS = 200
VOCABULARY_SIZE = 49152
SMALL_POOL_BYTES = 10 * 737_280
"""10 blocks of 32 tokens; the longest sequence needs three."""

SAMPLINGS = (
    GREEDY,
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=1.2, top_k=40),
    SamplingParams(top_p=0.9),
    SamplingParams(temperature=1.5, min_p=0.05),
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(temperature=0.9, presence_penalty=0.8, frequency_penalty=0.5, logprobs=2),
    SamplingParams(logit_bias=((28, 2.0), (30, -4.0), (216, 1.5))),
    dataclasses.replace(GREEDY, logprobs=5),
    dataclasses.replace(GREEDY, repetition_penalty=1.2, logit_bias=((198, 3.0),)),
    SamplingParams(
        temperature=1.1, top_k=100, top_p=0.95, min_p=0.01, repetition_penalty=1.1, presence_penalty=0.2,
        frequency_penalty=0.2, logit_bias=((260, 1.0),), logprobs=20,
    ),
)  # fmt: skip


@dataclasses.dataclass
class Choice:
    """What a client sees of a choice."""

    token_ids: list[int] = dataclasses.field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    finish_reason: FinishReason | None = None


Answers = dict[tuple[str, int], Choice]
"""By request and choice."""


class Serving:
    """An engine that the test steps, on a clock that ticks whenever it is looked at."""

    def __init__(self, runner: Runner, token_bytes: Sequence[bytes], options: EngineOptions) -> None:
        ticks = itertools.count()
        self.reports: list[StepReport] = []
        self.engine = Engine(
            runner,
            token_bytes,
            options=options,
            clock=lambda: 0.001 * next(ticks),
            report=self.reports.append,
        )

    def serve(self, arrivals: Iterable[Sequence[Request]]) -> Answers:
        """Before each step the next requests arrive, if any; ends when all have their answers."""
        waiting = iter(arrivals)
        submitted = 0
        while (batch := next(waiting, None)) is not None or self.finished < submitted:
            for request in batch or ():
                self.engine.commands.put(Submit(request))
                submitted += 1
            if self.finished < submitted:
                self.engine.step()
        return self._answers()

    @property
    def finished(self) -> int:
        return sum(isinstance(event, Finished) for report in self.reports for event in report.events)

    @property
    def preemptions(self) -> int:
        return sum(report.preemptions for report in self.reports)

    @property
    def accepted_drafts(self) -> int:
        return sum(report.draft_tokens_accepted for report in self.reports)

    @property
    def cached_tokens(self) -> int:
        return sum(report.prompt_tokens_cached for report in self.reports)

    def _answers(self) -> Answers:
        answers: Answers = {}
        events = [event for report in self.reports for event in report.events]
        for event in events:
            if isinstance(event, Progress):
                choice = answers.setdefault((event.request_id, event.choice), Choice())
                choice.token_ids += event.token_ids
                choice.text += event.text
                choice.logprobs += event.logprobs
                choice.prompt_logprobs += event.prompt_logprobs
                choice.finish_reason = event.finish_reason
        return answers


def mixed_requests(tokens: Sequence[int]) -> list[Request]:
    """Two in three begin with one of four prefixes of a block and a bit; prompts have 5 to 58 tokens."""
    chance = random.Random(4)

    def some(count: int) -> tuple[int, ...]:
        begin = chance.randrange(len(tokens) - count)
        return tuple(tokens[begin : begin + count])

    prefixes = [some(33 + index) for index in range(4)]
    requests = []
    for index in range(REQUESTS):
        prefix = chance.choice(prefixes) if index % 3 else ()
        sampling = dataclasses.replace(SAMPLINGS[index % len(SAMPLINGS)], seed=chance.randrange(2**64))
        requests.append(
            Request(
                request_id=str(index),
                prompt_token_ids=prefix + some(chance.randint(5, 22)),
                max_tokens=chance.randint(3, 14),
                arrival_time=0.0,
                sampling=sampling,
                n=2 if index % 7 == 3 else 1,
                prompt_logprobs=sampling.logprobs is not None and index % 2 == 0,
                stop=(" the", "e a", "\n") if index % 5 == 2 else (),
                stop_token_ids=frozenset({30, 28}) if index % 6 == 4 else frozenset(),
                eos_token_ids=frozenset({2}) if index % 2 else frozenset(),
                priority=chance.choice([0, 0, 0, 1, 2]),
                client=chance.choice("abc"),
                cache_prompt=index % 13 != 0,
            )
        )
    return requests


def arrivals(requests: Sequence[Request], seed: int) -> Iterator[Sequence[Request]]:
    """The requests in a random order, up to 12 before a step."""
    chance = random.Random(seed)
    shuffled = chance.sample(requests, len(requests))
    while shuffled:
        count = chance.choice([0, 0, 1, 5, 12])
        yield shuffled[:count]
        shuffled = shuffled[count:]


@pytest.fixture(scope="module")
def token_bytes(real_int8: Path) -> Sequence[bytes]:
    return Tokenizer.load(real_int8 / "assets.extra" / "tokenizer.json", VOCABULARY_SIZE, None).token_bytes


@pytest.fixture(scope="module")
def requests(reference: Reference) -> list[Request]:
    return mixed_requests([token for case in reference.greedy for token in case.prompt])


@pytest.fixture(scope="module")
def alone(real_int8: Path, requests: list[Request], token_bytes: Sequence[bytes]) -> Answers:
    """Each request by itself, on one lane, in an ample pool, nothing cached, nothing guessed."""
    runner = load_runner(real_int8, lanes=1)
    answers: Answers = {}
    try:
        for request in requests:
            serving = Serving(runner, token_bytes, EngineOptions(prefix_cache=False, speculation_tokens=0))
            answers |= serving.serve([[request]])
    finally:
        runner.close()
    return answers


@pytest.fixture(scope="module")
def small_runner(real_int8: Path) -> Iterator[Runner]:
    """A runner with few blocks and small steps."""
    runner = load_runner(real_int8, max_step_tokens=48, max_sequences=24, kv_cache_bytes=SMALL_POOL_BYTES)
    yield runner
    runner.close()


def test_the_requests_alone_end_in_every_way(requests: list[Request], alone: Answers) -> None:
    assert len(alone) == sum(request.n for request in requests)
    reasons = [choice.finish_reason for choice in alone.values()]
    for reason in FinishReason:
        assert reasons.count(reason) >= 5, reason
    twins = [request.request_id for request in requests if request.n == 2 and request.sampling.temperature]
    assert sum(alone[name, 0].token_ids != alone[name, 1].token_ids for name in twins) > len(twins) / 2


@pytest.mark.parametrize("prefix_cache", [True, False], ids=["prefix cache", "no prefix cache"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_answers_are_the_same_in_any_order_of_arrival_under_memory_pressure(
    small_runner: Runner,
    requests: list[Request],
    alone: Answers,
    token_bytes: Sequence[bytes],
    seed: int,
    prefix_cache: bool,
) -> None:
    options = EngineOptions(prefix_cache=prefix_cache, mixed_prefill_tokens=40)
    serving = Serving(small_runner, token_bytes, options)
    found = serving.serve(arrivals(requests, seed))
    print(
        f"{len(serving.reports)} steps, {serving.preemptions} preemptions, "
        f"{serving.cached_tokens} prompt tokens from the cache, {serving.accepted_drafts} drafts accepted"
    )
    assert serving.preemptions > 0
    assert serving.accepted_drafts > 0
    assert (serving.cached_tokens > 0) == prefix_cache
    differing = [key for key in alone if found.get(key) != alone[key]]
    assert differing == []
    assert found.keys() == alone.keys()
    assert serving.reports[-1].kv_blocks_used == 0
