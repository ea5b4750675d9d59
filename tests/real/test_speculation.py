"""Drafts on the real model: the same answers, token by token, in fewer steps."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.checks import Reference
from tests.real.cpu_program import load_runner

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import GREEDY, Drain, Progress, Request, SamplingParams, StepReport, Submit
from cadenza.server.runner.base import Runner

pytestmark = pytest.mark.real_model

VOCABULARY_SIZE = 49152
NEW_TOKENS = 48


@pytest.fixture(scope="module")
def runner(real_int8: Path) -> Iterator[Runner]:
    runner = load_runner(real_int8)
    yield runner
    runner.close()


def serve(
    runner: Runner, requests: list[Request], drafts: int
) -> tuple[dict[str, list[int]], list[StepReport]]:
    """The tokens of all requests, which run at once, and what the steps have reported."""
    ticks = itertools.count()
    reports: list[StepReport] = []
    options = EngineOptions(speculation_tokens=drafts, prefix_cache=False)
    engine = Engine(
        runner,
        [b"x"] * VOCABULARY_SIZE,
        options=options,
        clock=lambda: float(next(ticks)),
        report=reports.append,
    )
    for request in requests:
        engine.commands.put(Submit(request))
    engine.commands.put(Drain())
    engine.run()
    tokens: defaultdict[str, list[int]] = defaultdict(list)
    for event in (event for report in reports for event in report.events):
        if isinstance(event, Progress):
            tokens[event.request_id] += event.token_ids
    return tokens, reports


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, SamplingParams(temperature=0.8, seed=11), SamplingParams(temperature=0.6, top_p=0.9, seed=12)],
    ids=["greedy", "drawn", "truncated"],
)
def test_the_references_prompts_have_the_same_tokens_with_drafts_and_without(
    runner: Runner, reference: Reference, sampling: SamplingParams
) -> None:
    requests = [
        Request(case.name, case.prompt, NEW_TOKENS, arrival_time=0.0, sampling=sampling)
        for case in reference.greedy
    ]
    assert len(requests) == 20
    plain, _ = serve(runner, requests, drafts=0)
    for drafts in (1, 8):
        fast, reports = serve(runner, requests, drafts)
        assert fast == plain
        assert sum(report.draft_tokens_accepted for report in reports) > 0
