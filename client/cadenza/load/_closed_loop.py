"""The shortest way to a load from Python: every prompt once, N at a time."""

import os
from collections.abc import Sequence

from cadenza.client import CompletionOptions
from cadenza.client._settings import settings_from
from cadenza.load._plan import ClosedLoop, LoadPlan
from cadenza.load._processes import run_load
from cadenza.load._record import RequestRecord
from cadenza.load._workload import LoadPrompt, given_prompts


async def closed_loop(
    target: str,
    prompts: Sequence[LoadPrompt],
    *,
    concurrency: int,
    options: CompletionOptions | None = None,
) -> list[RequestRecord]:
    """Streams a completion of every prompt, `concurrency` at a time; gives a record per prompt, in order.

    A request that fails is recorded with its reason and the load goes on. Raises InvalidOption for a prompt
    or an option of the wrong type, ValueError without prompts or with a concurrency below 1, and LoadError
    where no server answers.
    """
    settings = settings_from(target, {}, os.environ)
    workload = given_prompts(settings, prompts, [options or {}] * len(prompts))
    pace = ClosedLoop(concurrency, requests=len(prompts))
    return (await run_load(LoadPlan(settings, workload, pace))).records
