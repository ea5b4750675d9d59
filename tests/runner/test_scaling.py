"""The scaling benchmark's fits on times that a formula made, and its counts on a model counted by hand."""

import pytest
from tests.bench.fitting import exponent
from tests.bench.scaling_growth import decode_growth, decode_terms, prefill_growth, prefill_terms, steps_of
from tests.bench.scaling_runs import StepTime
from tests.bench.scaling_theory import Theory, prompt_positions

from cadenza.v1.manifest_pb2 import PRECISION_INT8, CpuProgram, DecoderShape, ModelManifest

STEP_TOKENS = 128
LENGTHS = [32 << doublings for doublings in range(8)]
THEORY = Theory(
    row_operations=2_000_000,
    head_operations=500_000,
    position_operations=4_000,
    weight_bytes=1_250_000,
    position_bytes=1_000,
)


def made(step: float, row: float, position: float, *, steps: int, rows: int, positions: int) -> StepTime:
    """A time whose linear part is in proportion to rows, and attention to positions."""
    linear, attention = row * rows, position * positions
    return StepTime(step * steps + linear + attention, linear, attention, readings=2 if rows >= 4 else 1)


def prompts_made(step: float, row: float, position: float) -> dict[int, StepTime]:
    return {
        n: made(step, row, position, steps=steps_of(n, STEP_TOKENS), rows=n, positions=prompt_positions(n))
        for n in LENGTHS
    }


def steps_made(step: float, row: float, position: float) -> dict[tuple[int, int], StepTime]:
    return {
        (batch, context): made(step, row, position, steps=1, rows=batch, positions=batch * context)
        for batch in (1, 2, 4, 8, 16, 32)
        for context in (64, 256, 1024, 4096)
    }


def test_a_fit_finds_the_terms_that_made_the_times_of_prompts() -> None:
    found = prefill_terms(prompts_made(5e-3, 3e-4, 7e-7), STEP_TOKENS)
    assert (found.step, found.row, found.position) == pytest.approx((5e-3, 3e-4, 7e-7))
    assert found.median_error < 1e-9


def test_a_fit_finds_the_terms_that_made_decode_steps_and_leaves_out_those_of_fewer_readings() -> None:
    times = steps_made(5e-3, 3e-4, 7e-7)
    times[1, 64] = StepTime(9.0, 4.0, 5.0, readings=1)
    found = decode_terms(times)
    assert (found.step, found.row, found.position) == pytest.approx((5e-3, 3e-4, 7e-7))


def test_times_that_no_formula_made_have_an_error_that_says_so() -> None:
    times = prompts_made(5e-3, 3e-4, 7e-7)
    times[256] = StepTime(2 * times[256].whole, 0.1, 0.1, readings=2)
    assert prefill_terms(times, STEP_TOKENS).median_error > 1e-3


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_an_exponent_is_that_of_the_power_law_that_made_the_points(power: float) -> None:
    assert exponent(LENGTHS, [3.0 * n**power for n in LENGTHS]) == pytest.approx(power, abs=1e-12)


def test_linear_layers_grow_linearly_and_attention_of_prompts_quadratically() -> None:
    linear, attention, whole = prefill_growth(prompts_made(0.0, 3e-4, 7e-7), THEORY, STEP_TOKENS)
    assert (linear.measured, linear.operations) == pytest.approx((1.0, 1.0))
    assert attention.measured == pytest.approx(attention.operations)
    assert 1.98 < attention.operations < 2.0
    assert linear.measured < whole.measured < attention.measured


def test_prompts_whose_attention_is_linear_do_not_have_the_exponent_of_theory() -> None:
    times = {n: StepTime(1e-3 * n, 5e-4 * n, 5e-4 * n, readings=2) for n in LENGTHS}
    _, attention, _ = prefill_growth(times, THEORY, STEP_TOKENS)
    assert attention.measured == pytest.approx(1.0)
    assert attention.operations > 1.98


def test_decode_grows_with_the_context_by_attention_and_with_the_batch_less_than_its_operations() -> None:
    attention, by_context, by_batch = decode_growth(steps_made(5e-3, 3e-4, 7e-7), THEORY)
    assert (attention.measured, attention.operations) == pytest.approx((1.0, 1.0))
    assert 0 < by_context.measured < 1
    assert by_batch.operations == pytest.approx(1.0)
    assert 0 < by_batch.measured < 1
    assert 0 < by_batch.moved < 1


def test_counts_are_those_of_a_decoder_counted_by_hand() -> None:
    shape = DecoderShape(
        num_layers=2,
        hidden_size=8,
        num_heads=4,
        num_kv_heads=2,
        head_dim=2,
        vocabulary_size=100,
        max_context=64,
    )
    cpu = CpuProgram(precision=PRECISION_INT8)
    manifest = ModelManifest(parameter_count=1_800, decoder=shape, cpu=cpu)
    # 800 parameters are the embedding, which is the head too; 1,000 are the layers'.
    assert Theory.of(manifest) == Theory(
        row_operations=2 * 1_000,
        head_operations=2 * 800,
        position_operations=4 * 2 * 4 * 2,
        weight_bytes=1_800,
        position_bytes=2 * 2 * 2 * 2 * 2,
    )


def test_tokens_of_a_prompt_attend_to_all_before_them_and_themselves() -> None:
    assert [prompt_positions(length) for length in (1, 2, 3, 10)] == [1, 3, 6, 55]
