"""Lengths of prompts and replies: the shapes of real traffic, and what people type."""

import random

import numpy as np
import pytest

from cadenza.load._lengths import PRESETS, DrawnLengths, ListedLengths, Quantiles, constant, parse_quantiles

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SEEN = {
    "chat": ((5, 14, 36, 187, 1740, 3280), (22, 126, 257, 400, 771, 937)),
    "code": ((58, 95, 122, 166, 275, 323), (11, 28, 48, 80, 138, 186)),
}


@pytest.mark.parametrize("shape", sorted(SEEN))
def test_a_preset_has_the_percentiles_that_were_seen(shape: str) -> None:
    for preset, seen in zip(PRESETS[shape], SEEN[shape], strict=True):
        assert tuple(preset.tokens(share) for share in SHARES) == seen


def test_between_percentiles_the_logarithm_is_linear() -> None:
    prompt, _ = PRESETS["chat"]
    shares = np.linspace(0.05, 0.99, 500)
    expected = np.exp(np.interp(shares, SHARES, np.log(SEEN["chat"][0])))
    assert [prompt.tokens(share) for share in shares] == pytest.approx(expected, abs=0.501)


def test_beyond_the_percentiles_the_nearest_segment_goes_on() -> None:
    assert Quantiles(((0.25, 10), (0.75, 1000))).tokens(0.0) == 1
    assert Quantiles(((0.25, 10), (0.75, 1000))).tokens(1.0) == 10_000


def test_draws_have_the_percentiles_of_their_distribution() -> None:
    source = random.Random(3)
    drawn = DrawnLengths(*PRESETS["chat"])
    pairs = [drawn.of(index, source) for index in range(20_000)]
    for lengths, seen in zip(zip(*pairs, strict=True), SEEN["chat"], strict=True):
        assert np.quantile(lengths, SHARES[:-1]) == pytest.approx(seen[:-1], rel=0.12)


def test_prompt_and_reply_are_drawn_independently() -> None:
    source = random.Random(4)
    drawn = DrawnLengths(*PRESETS["code"])
    prompts, replies = zip(*(drawn.of(index, source) for index in range(20_000)), strict=True)
    assert abs(np.corrcoef(prompts, replies)[0, 1]) < 0.02


def test_a_traces_lengths_come_in_order_and_again_from_the_beginning() -> None:
    listed = ListedLengths(((3, 4), (5, 6)))
    assert [listed.of(index, random.Random()) for index in range(3)] == [(3, 4), (5, 6), (3, 4)]


def test_people_type_a_number_or_percentiles() -> None:
    assert parse_quantiles("64") == constant(64)
    assert parse_quantiles("64").tokens(0.99) == 64
    assert parse_quantiles("95=900,5=20,50=100") == Quantiles(((0.05, 20), (0.5, 100), (0.95, 900)))


@pytest.mark.parametrize("text", ["", "many", "0", "50=0", "5=20,5=30", "5=20,50=10", "150=3", "5=20,x"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no length: give tokens as 64, or percentiles"):
        parse_quantiles(text)
