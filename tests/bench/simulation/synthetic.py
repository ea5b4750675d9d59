"""Traces from a seed: Poisson arrivals, shared system prompts, long prompts among short ones."""

import dataclasses
import math
import random

from tests.bench.simulation.trace import TraceRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """What to draw. Lengths are uniform between their two numbers, both included."""

    requests: int = 100
    rate: float = 3.0
    """Requests a second, mean; the times between arrivals are exponential."""
    prompt_tokens: tuple[int, int] = (16, 200)
    """Of a prompt's own part, behind the shared one."""
    output_tokens: tuple[int, int] = (16, 96)
    prefix_groups: int = 0
    """So many system prompts; each request has one of them. 0: none."""
    prefix_tokens: int = 0
    """Length of each system prompt."""
    long_share: float = 0.0
    """Part of the requests whose own prompt has long_tokens instead."""
    long_tokens: int = 2000
    clients: int = 1
    priorities: int = 1
    """Priorities 0 .. priorities - 1, all as frequent."""
    deadline: float = math.inf
    """Seconds after each arrival."""


def synthetic_trace(workload: Workload, seed: int) -> list[TraceRequest]:
    """The same workload and seed give the same trace."""
    source = random.Random(seed)
    now = 0.0
    trace = []
    for _ in range(workload.requests):
        now += source.expovariate(workload.rate)
        shared = workload.prefix_tokens if workload.prefix_groups else 0
        is_long = source.random() < workload.long_share
        own = workload.long_tokens if is_long else source.randint(*workload.prompt_tokens)
        trace.append(
            TraceRequest(
                arrival=now,
                prompt_tokens=shared + own,
                output_tokens=source.randint(*workload.output_tokens),
                prefix=f"system-{source.randrange(workload.prefix_groups)}" if shared else "",
                prefix_tokens=shared,
                client=f"client-{source.randrange(workload.clients)}",
                priority=source.randrange(workload.priorities),
                deadline=workload.deadline,
            )
        )
    return trace
