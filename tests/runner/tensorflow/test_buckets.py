"""A step's work always fits compiled shapes, and there are few of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.tensorflow.buckets import Buckets

SMALL = RunnerLimits(block_size=32, num_blocks=2000, max_step_tokens=128, max_sequences=64, max_context=8192)
LARGE = RunnerLimits(
    block_size=32, num_blocks=9000, max_step_tokens=2048, max_sequences=256, max_context=32768
)
ODD = RunnerLimits(block_size=4, num_blocks=30, max_step_tokens=7, max_sequences=3, max_context=50)
LIMITS = [SMALL, LARGE, ODD]


@st.composite
def steps(draw: st.DrawFn, limits: RunnerLimits) -> list[tuple[int, int]]:
    """Tokens and KV blocks of each slice of a step that the engine may ask for."""
    room = limits.max_step_tokens
    slices: list[tuple[int, int]] = []
    for wanted in draw(st.lists(st.integers(1, limits.max_step_tokens), max_size=limits.max_sequences)):
        length = min(wanted, room, limits.max_context)
        if length:
            end = draw(st.integers(length, limits.max_context))
            slices.append((length, -(-end // limits.block_size)))
            room -= length
    return slices


@pytest.mark.parametrize("limits", LIMITS)
@given(data=st.data())
def test_every_token_is_in_one_row_of_a_compiled_shape_that_holds_it_after_those_before(
    limits: RunnerLimits, data: st.DataObject
) -> None:
    buckets = Buckets(limits)
    compiled = set(buckets.all)
    slices = data.draw(steps(limits))
    calls = buckets.plan([length for length, _ in slices], [blocks for _, blocks in slices])
    reached = [0] * len(slices)
    for call in calls:
        assert call.bucket in compiled
        assert 1 <= len(call.rows) <= call.bucket.rows
        for row in call.rows:
            assert row.begin == reached[row.slice] < row.end <= row.begin + call.bucket.columns
            assert slices[row.slice][1] <= call.bucket.blocks
            reached[row.slice] = row.end
    assert reached == [length for length, _ in slices]


@pytest.mark.parametrize("limits", LIMITS)
@given(data=st.data())
def test_rows_of_the_sampler_are_cut_without_gap_or_overlap(
    limits: RunnerLimits, data: st.DataObject
) -> None:
    buckets = Buckets(limits)
    rows = data.draw(st.integers(0, limits.max_step_tokens))
    reached = 0
    for begin, end, bucket in buckets.sampler_calls(rows):
        assert begin == reached < end <= begin + bucket
        assert bucket in buckets.sampler_rows
        reached = end
    assert reached == rows


@pytest.mark.parametrize(("limits", "most"), [(SMALL, 24), (LARGE, 40), (ODD, 6)])
def test_shapes_are_few(limits: RunnerLimits, most: int) -> None:
    assert len(Buckets(limits).all) <= most


def test_a_full_batch_of_typical_chats_is_one_call() -> None:
    (call,) = Buckets(SMALL).plan([1] * 64, [32] * 64)
    assert (call.bucket.rows, call.bucket.columns, call.bucket.blocks) == (64, 1, 32)


def test_few_short_sequences_are_not_padded_to_the_longest_shape() -> None:
    (call,) = Buckets(SMALL).plan([1] * 3, [2, 4, 3])
    assert (call.bucket.rows, call.bucket.blocks) == (4, 4)


def test_prefill_chunks_of_several_short_prompts_are_one_call() -> None:
    (call,) = Buckets(SMALL).plan([22, 64, 10], [1, 2, 1])
    assert (call.bucket.rows, call.bucket.columns, call.bucket.blocks) == (8, 16, 4)


def test_a_chunk_far_into_a_long_prompt_has_wide_rows() -> None:
    calls = Buckets(SMALL).plan([128], [100])
    assert {call.bucket.columns for call in calls} == {64}


def test_no_shape_is_compiled_that_no_step_could_ask_for() -> None:
    for limits in LIMITS:
        for bucket in Buckets(limits).all:
            positions = bucket.blocks * limits.block_size
            assert bucket.columns == 1 or bucket.columns < 4 * positions
