"""What requests find in the KV cache of what others have computed, told by the tokens that are computed."""

import pytest
from tests.engine.cache_runner import CacheRunner, continuation, logprobs
from tests.engine.harness import Harness

from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import SamplingParams

PROMPT = list(range(10))
"""Two full blocks of four, and a half."""


def served(harness: Harness, name: str, prompt: list[int], **options: object) -> int:
    """Runs a request to its end; returns how many tokens were computed for it."""
    before = harness.runner.computed_tokens
    harness.submit(name, prompt, max_tokens=1, **options)
    while not harness.tokens(name):
        harness.engine.step()
    assert harness.tokens(name) == continuation(prompt, 1)
    return harness.runner.computed_tokens - before


@pytest.fixture
def harness() -> Harness:
    return Harness(CacheRunner(num_blocks=16, block_size=4))


def test_the_second_request_computes_only_what_follows_the_shared_full_blocks(harness: Harness) -> None:
    assert served(harness, "a", PROMPT) == 10
    assert served(harness, "b", [*PROMPT[:8], 50, 51, 52]) == 3
    assert harness.finished("a").cached_prompt_tokens == 0
    assert harness.finished("b").cached_prompt_tokens == 8
    report = harness.reports[-1]
    assert (report.prompt_tokens_looked_up, report.prompt_tokens_cached) == (11, 8)


def test_at_least_the_last_token_is_computed(harness: Harness) -> None:
    assert served(harness, "a", PROMPT[:8]) == 8
    assert served(harness, "b", PROMPT[:8]) == 4
    assert harness.finished("b").cached_prompt_tokens == 4


def test_a_block_is_found_only_behind_the_same_blocks(harness: Harness) -> None:
    served(harness, "a", PROMPT)
    assert served(harness, "b", [50, *PROMPT[1:]]) == 10


def test_the_next_turn_of_a_chat_finds_the_tokens_generated_before(harness: Harness) -> None:
    harness.submit("a", PROMPT, max_tokens=7)
    harness.finish()
    # 16 of 17 tokens were computed: four full blocks.
    conversation = [*PROMPT, *continuation(PROMPT, 7), 60, 61]
    assert served(harness, "b", conversation) == len(conversation) - 16


def test_blocks_of_a_prompt_are_found_while_it_is_still_computed() -> None:
    harness = Harness(CacheRunner(num_blocks=32, block_size=4, max_step_tokens=8))
    harness.submit("a", list(range(24)), max_tokens=1)
    harness.engine.step()
    harness.engine.step()
    harness.submit("b", [*range(12), 70], max_tokens=1)
    harness.finish()
    assert harness.finished("b").cached_prompt_tokens == 12


def test_a_request_that_opts_out_neither_takes_nor_leaves(harness: Harness) -> None:
    served(harness, "a", PROMPT)
    assert served(harness, "b", PROMPT, cache_prompt=False) == 10
    assert harness.reports[-1].prompt_tokens_looked_up == 0
    other = [value + 30 for value in PROMPT]
    assert served(harness, "c", other, cache_prompt=False) == 10
    assert served(harness, "d", other) == 10


def test_an_engine_without_the_cache_finds_nothing() -> None:
    harness = Harness(options=EngineOptions(prefix_cache=False))
    assert served(harness, "a", PROMPT) == 10
    assert served(harness, "b", PROMPT) == 10
    assert harness.reports[-1].prompt_tokens_looked_up == 0


def test_prompt_log_probabilities_compute_the_whole_prompt_and_leave_it(harness: Harness) -> None:
    served(harness, "a", PROMPT)
    options = {"prompt_logprobs": True, "sampling": SamplingParams(logprobs=0)}
    assert served(harness, "b", PROMPT, **options) == 10
    assert harness.prompt_logprobs("b") == logprobs(PROMPT, 1, alternatives=0)
    other = [value + 30 for value in PROMPT]
    assert served(harness, "c", other, **options) == 10
    assert served(harness, "d", other) == 2


def test_of_one_chain_the_tail_is_given_up_first() -> None:
    # Five blocks: "a" leaves two full ones and a blank one; "b" takes four, so one of the two has to go.
    harness = Harness(CacheRunner(num_blocks=5, block_size=4))
    served(harness, "a", PROMPT)
    served(harness, "b", [value + 40 for value in range(14)], cache_prompt=False)
    assert served(harness, "c", PROMPT) == 10 - 4


def test_the_least_recently_used_prompt_is_given_up_first() -> None:
    # "a" and "b" leave two full blocks each and one is blank; "a" is used again; "c" takes three.
    other = [value + 30 for value in PROMPT[:9]]
    harness = Harness(CacheRunner(num_blocks=5, block_size=4))
    served(harness, "a", PROMPT[:9])
    served(harness, "b", other)
    assert served(harness, "again", PROMPT[:9]) == 1
    served(harness, "c", [value + 60 for value in PROMPT], cache_prompt=False)
    assert served(harness, "d", PROMPT[:9]) == 1


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    harness = Harness(CacheRunner(num_blocks=8, block_size=4, max_sequences=1))
    harness.submit("a", PROMPT, max_tokens=4)
    harness.engine.step()
    harness.submit("b", [50], max_tokens=1, priority=1)
    harness.finish()
    assert sum(report.preemptions for report in harness.reports) == 1
    assert harness.tokens("a") == continuation(PROMPT, 4)
    # The prompt, its third block again with the token after it, then two more tokens; one for "b".
    assert harness.runner.computed_tokens == 10 + 3 + 2 + 1


def test_choices_find_a_cached_prompt_and_are_counted_once(harness: Harness) -> None:
    served(harness, "a", PROMPT)
    harness.submit("b", PROMPT, max_tokens=3, n=3)
    harness.finish()
    assert harness.finished("b").cached_prompt_tokens == 8
    for choice in range(3):
        assert harness.tokens("b", choice) == continuation(PROMPT, 3, choice)
