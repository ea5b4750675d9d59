"""`python -m tests.bench.speculation`: what drafts bring, and what they cost where they fail.

A number of streams runs all the time, each followed by the next prompt when it ends. Runs with drafts and
without take turns on one runner, so that a machine whose speed drifts treats both alike. Prompts are random
tokens (64 + 128 tokens, ends ignored), tasks of HumanEval and chats (up to 128 tokens, to their end). Figures
are medians of tokens/s and of the ratio within a round; the tokens of both must be the same.
"""

import argparse
import itertools
import os
import queue
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deploy.demo.models import ARTIFACTS, CACHE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.bench.chats import QUESTIONS
from tests.bench.machine import processor
from tests.bench.sampling import load
from tests.bench.workload import PROMPT_TOKENS, SEED, prompts
from tests.data import humaneval_tasks

from cadenza.server.chat import ChatTemplate
from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import (
    Drain,
    Finished,
    Progress,
    Request,
    SamplingParams,
    StepReport,
    Submit,
)
from cadenza.server.runner.base import Runner
from cadenza.server.tokenizer import Tokenizer

VOCABULARY = 49_152
NEW_TOKENS = 128
END = 2
"""The model's end-of-sequence token."""
LEAST_REQUESTS = 16
TEMPERATURES = (0.0, 0.8)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    tokens_per_second: float
    answers: Mapping[str, tuple[int, ...]]
    """By request."""
    drafted: int
    accepted: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.speculation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8, 32])
    parser.add_argument("--drafts", type=int, default=EngineOptions().speculation_tokens)
    options = parser.parse_args(arguments)
    runner = load(ARTIFACTS["int8"], CACHE / "server")
    table, differing = _table(options.rounds, options.drafts), 0
    try:
        runner.warm_up()
        cases = list(itertools.product(workloads().items(), TEMPERATURES, options.concurrency))
        for (name, requests), temperature, streams in track(cases, description="cases", transient=True):
            drawn = [_drawn(request, temperature) for request in requests]
            rounds = [
                [run(runner, drawn, streams, drafts) for drafts in (0, options.drafts)]
                for _ in range(options.rounds)
            ]
            differing += sum(plain.answers != fast.answers for plain, fast in rounds)
            table.add_row(name, f"{temperature:g}", str(streams), *_figures(rounds))
    finally:
        runner.close()
    console = Console()
    console.print(table)
    console.print(
        f"load average at the end {os.getloadavg()[0]:.1f}; {differing} rounds with differing answers"
    )
    return int(differing > 0)


def workloads() -> dict[str, list[Request]]:
    """Greedy requests by name."""
    extra = ARTIFACTS["int8"] / "assets.extra"
    tokenizer = Tokenizer.load(extra / "tokenizer.json", VOCABULARY, None)
    source = (extra / "chat_template.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    tasks = [task["prompt"] for task in humaneval_tasks()[::10]]
    chats = [template.render([{"role": "user", "content": question}]) for question in QUESTIONS]
    return {
        "random tokens": _requests(prompts(LEAST_REQUESTS, PROMPT_TOKENS, VOCABULARY), frozenset()),
        "HumanEval": _requests([tokenizer.encode_now(text) for text in tasks], frozenset({END})),
        "chat": _requests([tokenizer.encode_now(text) for text in chats], frozenset({END})),
    }


def run(runner: Runner, requests: Sequence[Request], streams: int, drafts: int) -> Outcome:
    """Keeps so many streams running until twice as many, or all of `requests`, are answered."""
    reports: queue.SimpleQueue[StepReport] = queue.SimpleQueue()
    options = EngineOptions(prefix_cache=False, speculation_tokens=drafts)
    engine = Engine(runner, [b"x"] * VOCABULARY, options=options, clock=time.perf_counter, report=reports.put)
    thread = threading.Thread(target=engine.run)
    thread.start()
    count = max(len(requests), 2 * streams)
    waiting = (
        replace(request, request_id=str(number), arrival_time=time.perf_counter())
        for number, request in zip(range(count), itertools.cycle(requests), strict=False)
    )
    answers: defaultdict[str, list[int]] = defaultdict(list)
    finished = drafted = accepted = 0
    begin = time.perf_counter()
    for request in itertools.islice(waiting, streams):
        engine.commands.put(Submit(request))
    while finished < count:
        report = reports.get()
        drafted += report.draft_tokens
        accepted += report.draft_tokens_accepted
        for event in report.events:
            if isinstance(event, Progress):
                answers[event.request_id] += event.token_ids
            if isinstance(event, Finished):
                finished += 1
                if (following := next(waiting, None)) is not None:
                    engine.commands.put(Submit(following))
    seconds = time.perf_counter() - begin
    engine.commands.put(Drain())
    thread.join()
    tokens = sum(map(len, answers.values()))
    return Outcome(
        tokens / seconds, {name: tuple(found) for name, found in answers.items()}, drafted, accepted
    )


def _requests(token_ids: Sequence[Sequence[int]], ends: frozenset[int]) -> list[Request]:
    return [Request("", tuple(prompt), NEW_TOKENS, 0.0, eos_token_ids=ends) for prompt in token_ids]


def _drawn(request: Request, temperature: float) -> Request:
    return replace(request, sampling=SamplingParams(temperature=temperature, seed=SEED))


def _table(rounds: int, drafts: int) -> Table:
    title = f"{processor()}, {len(os.sched_getaffinity(0))} cores; SmolLM2-135M int8, up to {drafts} drafts"
    table = Table(title=f"{title}, {rounds} rounds, seed {SEED}")
    table.add_column("prompts", no_wrap=True)
    for column in ("temp.", "streams", "without", "with", "ratio", "least - most", "drafts", "right"):
        table.add_column(column, justify="right")
    return table


def _figures(rounds: Sequence[Sequence[Outcome]]) -> list[str]:
    """A row's cells: tokens/s without drafts and with, their ratio, drafts per token, how many were right."""
    plain = statistics.median(without.tokens_per_second for without, _ in rounds)
    fast = statistics.median(drafted.tokens_per_second for _, drafted in rounds)
    ratios = [drafted.tokens_per_second / without.tokens_per_second for without, drafted in rounds]
    last = rounds[-1][1]
    tokens = sum(map(len, last.answers.values()))
    return [
        f"{plain:.0f}",
        f"{fast:.0f}",
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f} - {max(ratios):.2f}",
        f"{last.drafted / tokens:.2f}",
        f"{100 * last.accepted / max(1, last.drafted):.0f} %",
    ]


if __name__ == "__main__":
    sys.exit(main())
