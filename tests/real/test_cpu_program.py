"""The CPU program against the oracle, and against itself: no result depends on the batch around it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.data import artifact_tokenizer
from tests.real.checks import GreedyCase, Reference, greedy_differences, mean_nll
from tests.real.cpu_program import KINDS, generate, load_runner, step_logits

from cadenza.server.engine.request import GREEDY, SamplingParams
from cadenza.server.runner.base import SequenceSlice, StepBatch
from cadenza.server.runner.cpu.options import KvPrecision
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.litert import LiteRTRunner

pytestmark = pytest.mark.real_model

INT8_NLL_COST = 0.05
KV_NLL_COST = 0.002
KV_PRECISIONS: tuple[KvPrecision, ...] = ("float32", "bfloat16")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[CpuRunner]:
    found: type[CpuRunner] = request.param
    return found


@pytest.fixture(scope="module")
def float32(real_float32: Path, kind: type[CpuRunner]) -> Iterator[CpuRunner]:
    runner = load_runner(real_float32, kind)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def int8(real_int8: Path, kind: type[CpuRunner]) -> Iterator[CpuRunner]:
    runner = load_runner(real_int8, kind)
    yield runner
    runner.close()


def humaneval_tokens(artifact: Path, reference: Reference, text: str, *, split_digits: bool) -> list[int]:
    tokenizer = artifact_tokenizer(artifact, split_digits=split_digits)
    return list(tokenizer.encode(text).ids[: reference.humaneval_tokens])


def test_float32_likelihood_is_the_oracles(
    float32: CpuRunner, real_float32: Path, reference: Reference, humaneval_text: str
) -> None:
    divided = humaneval_tokens(real_float32, reference, humaneval_text, split_digits=True)
    assert mean_nll(float32.logits, divided) == pytest.approx(reference.humaneval_nll, abs=1e-4)
    published = humaneval_tokens(real_float32, reference, humaneval_text, split_digits=False)
    assert 1.675 < mean_nll(float32.logits, published) < 1.677


def test_int8_likelihood_is_close_to_float32s(
    int8: CpuRunner, real_int8: Path, reference: Reference, humaneval_text: str
) -> None:
    tokens = humaneval_tokens(real_int8, reference, humaneval_text, split_digits=False)
    nll = mean_nll(int8.logits, tokens)
    print(f"int8 NLL {nll:.4f}, float32 {reference.humaneval_nll_digits_undivided:.4f}")
    assert nll - reference.humaneval_nll_digits_undivided < INT8_NLL_COST


def test_bfloat16_keys_and_values_halve_the_cache_and_cost_next_to_no_likelihood(
    real_int8: Path, reference: Reference, humaneval_text: str
) -> None:
    """LiteRT's runner: its kernels for float32 keys are compiled anyway."""
    tokens = humaneval_tokens(real_int8, reference, humaneval_text, split_digits=False)
    nll, blocks = {}, {}
    for precision in KV_PRECISIONS:
        runner = load_runner(real_int8, LiteRTRunner, kv_precision=precision)
        nll[precision], blocks[precision] = mean_nll(runner.logits, tokens), runner.limits.num_blocks
        runner.close()
    print(f"NLL {nll}")
    assert blocks["bfloat16"] == 2 * blocks["float32"]
    assert nll["bfloat16"] != nll["float32"]
    assert nll["bfloat16"] - nll["float32"] < KV_NLL_COST


def test_float32_greedy_tokens_are_the_oracles(float32: CpuRunner, reference: Reference) -> None:
    differences = [found for case in reference.greedy for found in greedy_differences(float32.logits, case)]
    ties = [found for found in differences if found.is_tie]
    if ties:
        print(f"steps at which the oracle's own lead is within rounding, and tokens differ: {ties}")
    assert [found for found in differences if not found.is_tie] == []


def some_prompts(cases: Sequence[GreedyCase], count: int) -> list[tuple[int, ...]]:
    """Prompts of mixed lengths, 3 to 150 tokens."""
    tokens = [token for case in cases for token in case.prompt]
    return [tuple(tokens[11 * index : 11 * index + 3 + 37 * index % 148]) for index in range(count)]


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(temperature=0.9, top_p=0.95, seed=5)])
def test_tokens_are_the_same_alone_and_in_a_batch(
    int8: CpuRunner, reference: Reference, sampling: SamplingParams
) -> None:
    prompts = some_prompts(reference.greedy, 16)
    together = generate(int8, prompts, 12, sampling)
    alone = [generate(int8, [prompt], 12, sampling)[0] for prompt in prompts]
    assert together == alone


def test_logits_are_equal_bit_for_bit_alone_in_a_batch_and_on_any_number_of_lanes(
    real_int8: Path, kind: type[CpuRunner], int8: CpuRunner, reference: Reference
) -> None:
    prompts = [prompt[:15] for prompt in some_prompts(reference.greedy, 9) if len(prompt) >= 15][:8]
    slices = [
        SequenceSlice(prompt, 0, range(8 * index, 8 * index + 8), GREEDY)
        for index, prompt in enumerate(prompts)
    ]
    together = step_logits(int8, StepBatch(slices))
    one_lane = load_runner(real_int8, kind, lanes=1)
    try:
        for part, expected in zip(slices, together, strict=True):
            # 15 rows of one sequence: on two lanes they are cut in the middle of it.
            assert np.array_equal(step_logits(int8, StepBatch([part]))[0], expected)
            assert np.array_equal(step_logits(one_lane, StepBatch([part]))[0], expected)
            assert np.array_equal(one_lane.logits(part.token_ids)[-1], expected)
    finally:
        one_lane.close()


def test_tokens_are_the_same_whatever_the_chunks(int8: CpuRunner, reference: Reference) -> None:
    prompt = some_prompts(reference.greedy, 4)[3]
    expected = generate(int8, [prompt], 6, chunk=1)
    for chunk in (7, 64, 128):
        assert generate(int8, [prompt], 6, chunk=chunk) == expected


def test_where_blocks_lie_does_not_matter(int8: CpuRunner, reference: Reference) -> None:
    prompt = some_prompts(reference.greedy, 4)[3]
    scattered = [[97, 3, 55, 14, 0, 81, 22, 40]]
    assert generate(int8, [prompt], 8, blocks=scattered) == generate(int8, [prompt], 8)
