"""The SavedModel from string to string: generation against the float64 reference, refusals, operations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.export import tiny
from tests.export.conftest import Exported
from tokenizers import Tokenizer

from cadenza.export import generation, sampling
from cadenza.export.generation import Generator
from cadenza.export.signatures import SIGNATURES
from cadenza.export.verify import operations, registered_operations

PROMPTS = ["The quick brown fox", "def", "it's what foxes do, naïve café 東京 🦊 1234", "a  b\n\n c"]
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def signatures(gguf_float32: Exported) -> Mapping[str, Any]:
    loaded = tf.saved_model.load(str(gguf_float32.artifact))
    return dict(loaded.signatures) | {"keep": loaded}


@pytest.fixture(scope="module")
def tokenizer(gguf_float32: Exported) -> Tokenizer:
    return Tokenizer.from_file(str(gguf_float32.artifact / "assets.extra/tokenizer.json"))


def complete(signatures: Mapping[str, Any], prompts: list[str], **changes: Any) -> dict[str, Any]:
    size = len(prompts)
    inputs: dict[str, Any] = {
        "prompt": tf.constant(prompts, tf.string),
        "max_tokens": tf.fill([size], NEW_TOKENS),
        "temperature": tf.zeros([size]),
        "top_k": tf.zeros([size], tf.int32),
        "top_p": tf.ones([size]),
        "seed": tf.range(size, dtype=tf.int64),
    }
    outputs = signatures["complete"](**inputs | changes)
    return {name: value.numpy() for name, value in outputs.items()}


def greedy_reference(exported: Exported, prompt: list[int], ends: tuple[int, ...] = (0, 2)) -> list[int]:
    ids = list(prompt)
    for _ in range(NEW_TOKENS):
        logits = tiny.reference_logits(exported.tiny, exported.weights, np.array(ids))
        ids.append(int(logits[-1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def test_completions_of_a_ragged_batch_are_those_of_the_reference(
    signatures: Mapping[str, Any], tokenizer: Tokenizer, gguf_float32: Exported
) -> None:
    found = complete(signatures, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        expected = greedy_reference(gguf_float32, tokenizer.encode(prompt).ids)
        count = found["token_count"][row]
        assert found["token_ids"][row, :count].tolist() == expected
        assert not found["token_ids"][row, count:].any()
        ended = expected[-1] in (0, 2)
        assert found["finish_reason"][row] == (b"stop" if ended else b"length")
        known = [token_id for token_id in expected if token_id < tokenizer.get_vocab_size()]
        assert found["completion"][row].decode() == tokenizer.decode(known, skip_special_tokens=True)


def test_a_prompt_alone_is_continued_as_in_a_batch(signatures: Mapping[str, Any]) -> None:
    together = complete(signatures, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = complete(signatures, [prompt])
        count = alone["token_count"][0]
        assert count == together["token_count"][row]
        np.testing.assert_array_equal(alone["token_ids"][0, :count], together["token_ids"][row, :count])


def test_each_row_stops_at_its_own_number_of_tokens(signatures: Mapping[str, Any]) -> None:
    whole = complete(signatures, PROMPTS)
    found = complete(signatures, PROMPTS, max_tokens=tf.constant([1, 5, 2, 9]))
    assert found["token_count"].tolist() == [1, 5, 2, 9]
    for row, count in enumerate(found["token_count"]):
        np.testing.assert_array_equal(found["token_ids"][row, :count], whole["token_ids"][row, :count])


def test_an_end_token_ends_a_row_and_not_its_neighbours(gguf_float32: Exported) -> None:
    weights = _variables(gguf_float32)
    ids = np.random.default_rng(3).integers(3, 400, size=[2, 6])
    never = _generate(Generator(_config(gguf_float32), weights, []), ids)
    end = int(never.token_ids[0, 4])
    found = _generate(Generator(_config(gguf_float32), weights, [end]), ids)
    first = never.token_ids[0].numpy().tolist().index(end) + 1
    assert int(found.count[0]) == first
    assert found.token_ids[0, :first].numpy().tolist() == never.token_ids[0, :first].numpy().tolist()
    assert bool(found.ended[0])
    other = never.token_ids[1].numpy().tolist()
    expected = other.index(end) + 1 if end in other else NEW_TOKENS
    assert int(found.count[1]) == expected


def test_prompts_of_several_chunks_compute_what_one_chunk_does(
    gguf_float32: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.random.default_rng(4).integers(0, 400, size=[3, 29])
    lengths = tf.constant([29, 3, 17])
    generator = Generator(_config(gguf_float32), _variables(gguf_float32), [])
    whole = generator.score(tf.constant(ids, tf.int32), lengths).numpy()
    tokens = _generate(generator, ids, lengths).token_ids.numpy()
    monkeypatch.setattr(generation, "PREFILL_CHUNK", 7)
    chunked = Generator(_config(gguf_float32), _variables(gguf_float32), [])
    np.testing.assert_allclose(chunked.score(tf.constant(ids, tf.int32), lengths).numpy(), whole, atol=1e-5)
    np.testing.assert_array_equal(_generate(chunked, ids, lengths).token_ids.numpy(), tokens)


def test_score_is_the_log_softmax_of_the_reference(
    signatures: Mapping[str, Any], tokenizer: Tokenizer, gguf_float32: Exported
) -> None:
    found = signatures["score"](text=tf.constant(PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        ids = tokenizer.encode(prompt).ids
        logits = tiny.reference_logits(gguf_float32.tiny, gguf_float32.weights, np.array(ids))
        logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected = [0.0, *logprobs[np.arange(len(ids) - 1), ids[1:]]]
        assert found["length"][row] == len(ids)
        np.testing.assert_allclose(found["logprob"][row, : len(ids)], expected, atol=1e-4)
        assert not found["logprob"][row, len(ids) :].numpy().any()


def test_serving_default_is_greedy_and_fills_the_context_where_that_is_short(
    signatures: Mapping[str, Any], tokenizer: Tokenizer
) -> None:
    prompt = "The quick brown fox"
    room = 128 - len(tokenizer.encode(prompt).ids)
    expected = complete(signatures, [prompt], max_tokens=tf.constant([room]))["completion"]
    found = signatures["serving_default"](prompt=tf.constant([prompt]))["completion"]
    assert found.numpy().tolist() == expected.tolist()


def test_seeded_tokens_depend_on_the_seed_and_not_on_the_batch(signatures: Mapping[str, Any]) -> None:
    hot = {"temperature": tf.constant([1.5] * 4), "top_k": tf.constant([0, 50, 0, 50])}
    seeds = tf.constant([7, 7, 8, -(2**63)], tf.int64)
    top_p = tf.constant([1.0, 1.0, 0.9, 0.9])
    prompts = ["The quick brown fox"] * 4
    found = complete(signatures, prompts, seed=seeds, top_p=top_p, **hot)
    again = complete(signatures, prompts, seed=seeds, top_p=top_p, **hot)
    np.testing.assert_array_equal(found["token_ids"], again["token_ids"])
    assert len({tuple(row) for row in found["token_ids"].tolist()}) == 4
    alone = complete(
        signatures, prompts[:1], seed=seeds[2:3], top_p=top_p[2:3], temperature=tf.constant([1.5])
    )
    count = alone["token_count"][0]
    np.testing.assert_array_equal(alone["token_ids"][0, :count], found["token_ids"][2, :count])


def test_tokens_are_drawn_in_proportion_to_what_truncation_left() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    draws = 4000
    inputs = sampling.SamplingInputs(
        temperature=tf.ones([draws]),
        top_k=tf.fill([draws], 3),
        top_p=tf.fill([draws], 0.8),
        seed=tf.range(draws, dtype=tf.int64),
    )
    rows = tf.tile(tf.constant(logits)[None], [draws, 1])
    chosen = sampling.choose(rows, inputs, tf.fill([draws], 5)).numpy()
    shares = np.bincount(chosen, minlength=4) / draws  # of the top 3, 0.9 in all, two reach 0.72
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3, 0, 0], atol=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": tf.constant([0, 1])}, "max_tokens must be at least 1"),
        ({"max_tokens": tf.constant([1, 128])}, "must fit the context of 128 tokens"),
        ({"max_tokens": tf.constant([1, 2**31 - 1])}, "must fit the context of 128 tokens"),
        ({"max_tokens": tf.constant([1])}, "max_tokens needs one value for each prompt"),
        ({"temperature": tf.constant([0.0, -1.0])}, "temperature must be 0"),
        ({"temperature": tf.constant([0.0, float("nan")])}, "temperature must be 0"),
        ({"temperature": tf.constant([0.0, float("inf")])}, "temperature must be 0"),
        ({"top_k": tf.constant([0, -1])}, "top_k must be 0"),
        ({"top_p": tf.constant([0.0, 1.0])}, "top_p must be above 0"),
        ({"top_p": tf.constant([1.0, 1.5])}, "top_p must be above 0"),
        ({"prompt": tf.constant(["x", ""])}, "a text has no tokens"),
    ],
)
def test_bad_input_is_an_invalid_argument_that_says_what_is_allowed(
    signatures: Mapping[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        complete(signatures, ["x", "y"], **change)


def test_token_ids_and_lengths_out_of_bounds_are_invalid_arguments(signatures: Mapping[str, Any]) -> None:
    for ids, length in (([[400]], [1]), ([[-1]], [1]), ([[1]], [2]), ([[1]], [-1]), ([[1]], [1, 1])):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signatures["detokenize"](token_ids=tf.constant(ids), length=tf.constant(length))
    with pytest.raises(tf.errors.InvalidArgumentError, match="128 columns"):
        signatures["logits"](token_ids=tf.zeros([1, 129], tf.int32))


def test_an_empty_batch_gives_an_empty_answer(signatures: Mapping[str, Any]) -> None:
    assert complete(signatures, [])["completion"].shape == (0,)
    assert signatures["tokenize"](text=tf.constant([], tf.string))["length"].shape == (0,)


@pytest.mark.parametrize("fixture", ["gguf_float32", "grouped_tied_int8", "separate_scaled_float32"])
def test_every_artifact_has_the_same_signatures_of_tensorflows_own_operations(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    exported: Exported = request.getfixturevalue(fixture)
    loaded = tf.saved_model.load(str(exported.artifact))
    assert set(loaded.signatures) == set(SIGNATURES)
    names = operations(exported.artifact)
    assert {"While", "LookupTableFindV2", "StaticRegexReplace"} <= names
    assert registered_operations(names) == names
    assert not [name for name in names if "PyFunc" in name]


def _config(exported: Exported) -> Any:
    from cadenza.export.exporter import open_source

    return open_source(exported.source).blueprint.config


def _variables(exported: Exported) -> Any:
    from cadenza.export.exporter import open_source

    opened = open_source(exported.source)
    return opened.blueprint.weights.map(
        lambda name, parts: tf.Variable(opened.blueprint.load(parts, opened.source), name=name)
    )


def _generate(generator: Generator, ids: tiny.Array, lengths: Any = None) -> generation.Generated:
    batch, width = ids.shape
    return generator.generate(
        tf.constant(ids, tf.int32),
        tf.fill([batch], width) if lengths is None else lengths,
        tf.fill([batch], NEW_TOKENS),
        sampling.greedy(tf.constant(batch)),
    )
