"""What every runner must do, as tests: subclass, name the class Test..., and give a `subject` fixture.

`RunnerConformance` needs a runner whose greedy tokens are known. `SamplingConformance` needs its logits too.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runner.driver import Answer, Job, answer, complete
from tests.runner.exact import log_softmax

from cadenza.server.engine.request import GREEDY, SamplingParams, TokenLogprob
from cadenza.server.runner.base import NO_TOKEN, BlockCopy, Runner, SequenceSlice, StepBatch


@dataclasses.dataclass(frozen=True)
class Subject:
    """A runner with at least 16 blocks, and what is known of its model."""

    runner: Runner
    vocabulary: int
    greedy_after: Callable[[Sequence[int]], Sequence[int]]
    """The greedy token after each prefix of some tokens."""
    tolerance: float = dataclasses.field(default=0.0, kw_only=True)
    """How far log-probabilities of one request may be apart in other batches; tokens are always the same."""

    def prompt(self, length: int, seed: int = 0) -> list[int]:
        """Some tokens."""
        source = random.Random(1000 * length + seed)
        return [source.randrange(self.vocabulary) for _ in range(length)]

    def continues(self, prompt: Sequence[int], found: Answer) -> bool:
        """Whether these are the greedy tokens after a prompt."""
        expected = self.greedy_after([*prompt, *found.token_ids[:-1]])[len(prompt) - 1 :]
        return found.token_ids == list(expected)


@dataclasses.dataclass(frozen=True)
class SamplingSubject(Subject):
    """A runner that draws and tells log-probabilities."""

    logits: Callable[[Sequence[int]], NDArray[np.float32]]
    """[T, V] After each of some tokens."""


class RunnerConformance:
    """Greedy tokens, whatever the batch, the chunks and the blocks."""

    @pytest.fixture
    def subject(self) -> Subject:
        raise NotImplementedError

    def test_tokens_are_the_models_greedy_ones(self, subject: Subject) -> None:
        for length in (1, 2, subject.runner.limits.block_size, 2 * subject.runner.limits.block_size + 3):
            prompt = subject.prompt(length)
            assert subject.continues(prompt, answer(subject.runner, Job(prompt)))

    def test_tokens_are_the_same_in_a_batch(self, subject: Subject) -> None:
        prompts = [subject.prompt(length) for length in (1, 5, 9, 2, 14)]
        for prompt, found in zip(
            prompts, complete(subject.runner, [Job(prompt) for prompt in prompts]), strict=True
        ):
            assert subject.continues(prompt, found)

    def test_a_step_holds_as_many_sequences_as_the_limits_say(self, subject: Subject) -> None:
        limits = subject.runner.limits
        count = min(limits.max_sequences, limits.max_step_tokens, limits.num_blocks)
        slices = [SequenceSlice([index % subject.vocabulary], 0, [index], GREEDY) for index in range(count)]
        expected = [subject.greedy_after([token_id])[0] for token_id in range(min(3, count))]
        assert list(subject.runner.step(StepBatch(slices)).token_ids[: len(expected)]) == expected

    @pytest.mark.parametrize("chunk", [1, 3, 16])
    def test_tokens_are_the_same_whatever_the_chunks(self, subject: Subject, chunk: int) -> None:
        prompt = subject.prompt(2 * subject.runner.limits.block_size + 1)
        assert subject.continues(prompt, answer(subject.runner, Job(prompt), chunk=chunk))

    def test_where_blocks_lie_does_not_matter(self, subject: Subject) -> None:
        prompt = subject.prompt(2 * subject.runner.limits.block_size)
        for blocks in ([0, 1, 2, 3], [9, 2, 15, 0], [3, 2, 1, 0]):
            found = answer(subject.runner, Job(prompt, blocks=blocks, count=4))
            assert subject.continues(prompt, found)

    def test_what_a_block_held_before_does_not_matter(self, subject: Subject) -> None:
        size = subject.runner.limits.block_size
        complete(subject.runner, [Job(subject.prompt(3 * size, seed=1), blocks=range(4), count=4)])
        prompt = subject.prompt(size + 1)
        assert subject.continues(prompt, answer(subject.runner, Job(prompt, blocks=[3, 0, 1])))

    def test_blocks_that_are_there_already_can_be_shared(self, subject: Subject) -> None:
        size = subject.runner.limits.block_size
        prefix = subject.prompt(2 * size)
        answer(subject.runner, Job(prefix, count=1, blocks=[4, 7]))
        prompts = [[*prefix, *subject.prompt(3, seed)] for seed in range(3)]
        jobs = [
            Job(prompt, blocks=[4, 7, 8 + 2 * index, 9 + 2 * index], computed=2 * size, count=4)
            for index, prompt in enumerate(prompts)
        ]
        for prompt, found in zip(prompts, complete(subject.runner, jobs), strict=True):
            assert subject.continues(prompt, found)

    def test_no_token_comes_where_none_is_asked_for(self, subject: Subject) -> None:
        tokens = subject.prompt(3)
        slices = [
            SequenceSlice(tokens, 0, [0], None),
            SequenceSlice(tokens, 0, [1], GREEDY),
            SequenceSlice(tokens, 0, [2], None),
        ]
        expected = subject.greedy_after(tokens)[-1]
        assert list(subject.runner.step(StepBatch(slices)).token_ids) == [NO_TOKEN, expected, NO_TOKEN]

    def test_a_copied_block_goes_its_own_way(self, subject: Subject) -> None:
        size = subject.runner.limits.block_size
        prefix = subject.prompt(size + size // 2)
        answer(subject.runner, Job(prefix, count=1, blocks=[5, 3]))
        # One writes into the source in the very step that copies it.
        tables = [[5, 3, 10, 11], [5, 8, 12, 13], [5, 1, 14, 15]]
        prompts = [[*prefix, *subject.prompt(2, seed)] for seed in range(3)]
        jobs = [
            Job(prompt, blocks=table, computed=len(prefix), count=size)
            for prompt, table in zip(prompts, tables, strict=True)
        ]
        copies = [BlockCopy(source=3, target=8), BlockCopy(source=3, target=1)]
        for prompt, found in zip(prompts, complete(subject.runner, jobs, copies=copies), strict=True):
            assert subject.continues(prompt, found)


class DraftConformance:
    """Drafts, for runners that take them."""

    @pytest.fixture
    def subject(self) -> Subject:
        raise NotImplementedError

    @pytest.mark.parametrize("every", [1, 2, 3, 100])
    def test_answers_are_the_same_whatever_is_drafted(self, subject: Subject, every: int) -> None:
        for index, sampling in enumerate(some_samplings()):
            alternatives = index % 3 if index % 2 else None
            job = Job(subject.prompt(4 + 3 * index), sampling, prompt_alternatives=alternatives)
            plain = answer(subject.runner, job)
            drafts = with_errors(plain.token_ids, every, subject.vocabulary)
            assert answer(subject.runner, dataclasses.replace(job, drafts=drafts)) == plain

    @pytest.mark.parametrize("right", range(4))
    def test_drafts_are_accepted_up_to_the_first_that_is_wrong(self, subject: Subject, right: int) -> None:
        prompt = subject.prompt(3)
        table = range(8)
        first, *rest = answer(subject.runner, Job(prompt, blocks=table)).token_ids
        drafts = with_errors(rest[: right + 1], right + 1, subject.vocabulary)
        part = SequenceSlice([first, *drafts], len(prompt), table, GREEDY, num_drafts=len(drafts))
        result = subject.runner.step(StepBatch([part]))
        assert result.accepted[0] == right
        assert result.token_ids[0] == rest[right]
        # What the wrong draft has left in the cache is written over.
        after = SequenceSlice([rest[right]], len(prompt) + 1 + right, table, GREEDY)
        assert subject.runner.step(StepBatch([after])).token_ids[0] == rest[right + 1]


def with_errors(token_ids: Sequence[int], every: int, vocabulary: int) -> list[int]:
    """The tokens, of which each `every`-th is another one."""
    return [(token_id + (index % every == 0)) % vocabulary for index, token_id in enumerate(token_ids, 1)]


class SamplingConformance(RunnerConformance):
    """Draws, alterations and log-probabilities."""

    @pytest.fixture
    def subject(self) -> SamplingSubject:
        raise NotImplementedError

    @pytest.fixture
    def jobs(self, subject: SamplingSubject) -> list[Job]:
        """One of each kind."""
        return [
            Job(subject.prompt(4 + 3 * index), sampling, prompt_alternatives=index % 3 if index % 2 else None)
            for index, sampling in enumerate(some_samplings())
        ]

    def test_answers_are_the_same_in_any_batch(self, subject: SamplingSubject, jobs: list[Job]) -> None:
        alone = [answer(subject.runner, job) for job in jobs]
        for seed in range(2):
            order = random.Random(seed).sample(range(len(jobs)), len(jobs))
            together = complete(subject.runner, [jobs[index] for index in order])
            for index, found in zip(order, together, strict=True):
                check_same(found, alone[index], subject.tolerance)

    @pytest.mark.parametrize("chunk", [1, 5])
    def test_answers_are_the_same_whatever_the_chunks(
        self, subject: SamplingSubject, jobs: list[Job], chunk: int
    ) -> None:
        whole = complete(subject.runner, jobs)
        for found, expected in zip(complete(subject.runner, jobs, chunk=chunk), whole, strict=True):
            check_same(found, expected, subject.tolerance)

    def test_a_seed_gives_the_same_tokens_again_and_another_others(self, subject: SamplingSubject) -> None:
        prompt = subject.prompt(5)
        variants = [(1, 0), (1, 1), (2, 0), (2, 1)]
        jobs = [
            Job(prompt, SamplingParams(temperature=5.0, seed=seed, choice=choice), count=16)
            for seed, choice in variants
        ]
        found = complete(subject.runner, jobs)
        assert complete(subject.runner, jobs) == found
        assert len({tuple(one.token_ids) for one in found}) == len(variants)

    def test_logprobs_are_the_models_own(self, subject: SamplingSubject, jobs: list[Job]) -> None:
        for job, found in zip(jobs, complete(subject.runner, jobs), strict=True):
            tokens = [*job.prompt, *found.token_ids]
            rows = log_softmax(subject.logits(tokens[:-1]))
            if job.prompt_alternatives is not None:
                prompt_rows = rows[: len(job.prompt) - 1]
                check_logprobs(found.prompt_logprobs, job.prompt[1:], prompt_rows, job.prompt_alternatives)
            if job.sampling.logprobs is not None:
                own_rows = rows[len(job.prompt) - 1 :]
                check_logprobs(found.logprobs, found.token_ids, own_rows, job.sampling.logprobs)

    def test_only_those_who_ask_get_logprobs(self, subject: SamplingSubject, jobs: list[Job]) -> None:
        for job, found in zip(jobs, complete(subject.runner, jobs), strict=True):
            prompt_tokens = 0 if job.prompt_alternatives is None else len(job.prompt) - 1
            assert len(found.prompt_logprobs) == prompt_tokens
            assert len(found.logprobs) == (0 if job.sampling.logprobs is None else job.count)

    def test_targets_do_without_a_chosen_token(self, subject: SamplingSubject) -> None:
        prompt = subject.prompt(6)
        part = SequenceSlice(prompt[:-1], 0, [0, 1], None, targets=prompt[1:], target_alternatives=2)
        result = subject.runner.step(StepBatch([part]))
        assert list(result.token_ids) == [NO_TOKEN]
        check_logprobs(result.logprobs[0], prompt[1:], log_softmax(subject.logits(prompt[:-1])), 2)

    def test_a_large_bias_decides(self, subject: SamplingSubject) -> None:
        sampling = dataclasses.replace(GREEDY, logit_bias=((2, 1000.0),))
        assert answer(subject.runner, Job(subject.prompt(3), sampling)).token_ids == [2] * 8

    def test_a_large_penalty_forbids_repetition(self, subject: SamplingSubject) -> None:
        sampling = dataclasses.replace(GREEDY, presence_penalty=1000.0)
        found = answer(subject.runner, Job(subject.prompt(3), sampling, count=16)).token_ids
        assert len(set(found)) == 16

    @pytest.mark.parametrize("count", [-1, 21])
    def test_more_alternatives_than_20_are_refused_and_nothing_breaks(
        self, subject: SamplingSubject, count: int
    ) -> None:
        prompt = subject.prompt(3)
        for job in (
            Job(prompt, dataclasses.replace(GREEDY, logprobs=count)),
            Job(prompt, prompt_alternatives=count),
        ):
            with pytest.raises(ValueError, match="from 0 to 20"):
                answer(subject.runner, job)
        assert subject.continues(prompt, answer(subject.runner, Job(prompt)))


def check_same(found: Answer, expected: Answer, tolerance: float) -> None:
    """Equal tokens, and log-probabilities that are no further apart than the tolerance."""
    if not tolerance:
        assert found == expected
        return
    assert found.token_ids == expected.token_ids
    pairs = [(found.logprobs, expected.logprobs), (found.prompt_logprobs, expected.prompt_logprobs)]
    for ones, others in pairs:
        for one, other in zip(ones, others, strict=True):
            assert one.token_id == other.token_id
            values = [one.logprob, *(logprob for _, logprob in one.alternatives)]
            assert values == pytest.approx(
                [other.logprob, *(logprob for _, logprob in other.alternatives)], abs=tolerance
            )


def some_samplings() -> list[SamplingParams]:
    """Every option at least once, alone and with others."""
    return [
        GREEDY,
        SamplingParams(temperature=0.8, seed=1),
        dataclasses.replace(GREEDY, logprobs=3),
        SamplingParams(seed=2, repetition_penalty=1.3),
        SamplingParams(seed=2, choice=1, top_p=0.9, logprobs=0),
        SamplingParams(seed=3, presence_penalty=0.7, frequency_penalty=0.4, min_p=0.02, logprobs=2),
        SamplingParams(seed=4, top_k=9, logit_bias=((1, 2.0), (2, -3.0))),
        dataclasses.replace(GREEDY, repetition_penalty=1.5, logit_bias=((0, 1.0),), logprobs=5),
    ]


def check_logprobs(
    found: Sequence[TokenLogprob], token_ids: Sequence[int], rows: NDArray[np.float64], count: int
) -> None:
    """Compares with the log-softmax [T, V] of a model's logits."""
    assert [entry.token_id for entry in found] == list(token_ids)
    for entry, row in zip(found, rows, strict=True):
        assert entry.logprob == pytest.approx(row[entry.token_id], abs=1e-4)
        best = np.argsort(-row, kind="stable")[:count]
        assert [logprob for _, logprob in entry.alternatives] == pytest.approx(row[best], abs=1e-4)
        named = [token_id for token_id, _ in entry.alternatives]
        assert row[named] == pytest.approx(row[best], abs=1e-4)
