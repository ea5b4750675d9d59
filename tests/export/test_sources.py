"""What is read from sources: rotary frequencies, quantised tensors, tokenizers and their end tokens."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.export import tiny
from tests.export.conftest import llama3_frequencies
from tokenizers import Tokenizer

from cadenza.export.exporter import Export, open_source

SIZES = tiny.Tiny(layers=1)


def opened_folder(path: Path, **files: Any) -> Export:
    """A folder with more files: name with '__' for the dot, and their JSON."""
    source = tiny.write_hugging_face(path / "source", SIZES, tiny.random_weights(SIZES))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (source / name.replace("__", ".")).write_text(text)
    return open_source(source)


def opened_gguf(path: Path, weights: tiny.Weights | None = None, **settings: Any) -> Export:
    """A GGUF file with more tokenizer settings: name without its prefix."""
    named = {f"tokenizer.ggml.{name}": value for name, value in settings.items()}
    weights = tiny.random_weights(SIZES) if weights is None else weights
    return open_source(tiny.write_gguf(path / "tiny.gguf", SIZES, weights, settings=named))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rope_scaling": {"rope_type": "default"}}, SIZES.frequencies),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, SIZES.frequencies / 4),
        (
            {"rope_theta": None, "rope_parameters": {"rope_theta": 10000.0}},
            SIZES.frequencies,
        ),
    ],
)
def test_rotary_settings_of_a_folder_change_the_frequencies(
    tmp_path: Path, settings: dict[str, Any], expected: tiny.Array
) -> None:
    source = tiny.write_hugging_face(tmp_path / "source", SIZES, tiny.random_weights(SIZES), config=settings)
    found = open_source(source).blueprint.config.inverse_frequencies
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_rotary_factors_of_a_gguf_file_change_the_frequencies(tmp_path: Path) -> None:
    expected = llama3_frequencies(SIZES.frequencies)
    factors = {"rope_freqs.weight": (SIZES.frequencies / expected).astype(np.float32)}
    source = tmp_path / "tiny.gguf"
    tiny.write_gguf(source, SIZES, tiny.random_weights(SIZES) | factors)
    found = open_source(source).blueprint.config.inverse_frequencies
    np.testing.assert_allclose(found, expected, rtol=2e-7)


def test_linear_scaling_of_a_gguf_file_divides_the_frequencies(tmp_path: Path) -> None:
    settings = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    source = tiny.write_gguf(tmp_path / "tiny.gguf", SIZES, tiny.random_weights(SIZES), settings=settings)
    found = open_source(source).blueprint.config.inverse_frequencies
    np.testing.assert_array_equal(found, (SIZES.frequencies / 2).astype(np.float32))


def test_quantised_tensor_is_read_as_its_blocks_say(tmp_path: Path) -> None:
    weights = tiny.random_weights(SIZES)
    source = tmp_path / "tiny.gguf"
    tiny.write_gguf(source, SIZES, weights, quantisation=gguf.GGMLQuantizationType.Q8_0)
    original = weights["model.layers.0.mlp.up_proj.weight"]
    blocks = original.reshape(-1, 32)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    found = open_source(source).source.read("blk.0.ffn_up.weight")
    assert found.dtype == np.float32
    assert (np.abs(found.reshape(-1, 32) - blocks) <= 0.51 * scales + 127 * scales * 2**-11).all()


def test_end_tokens_are_those_of_all_files_of_a_folder(tmp_path: Path) -> None:
    opened = opened_folder(
        tmp_path,
        generation_config__json={"eos_token_id": [5, 6]},
        tokenizer_config__json={"eos_token": "<|im_end|>"},
    )
    assert opened.tokenizer.eos_token_ids == (0, 2, 5, 6)
    assert opened.tokenizer.chat_template is None


def test_template_file_goes_before_the_tokenizer_config(tmp_path: Path) -> None:
    config = {"eos_token": "<|im_end|>", "chat_template": "old"}
    opened = opened_folder(tmp_path, tokenizer_config__json=config, chat_template__jinja="new")
    assert opened.tokenizer.chat_template == "new"


def test_default_of_several_templates_is_taken(tmp_path: Path) -> None:
    templates = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    opened = opened_folder(tmp_path, tokenizer_config__json={"chat_template": templates})
    assert opened.tokenizer.chat_template == "d"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("smollm", ["it", "'s", "Ġ", "1", "2", "3", "4", "Ġfoxes", "ĊĊĊĠ"]),
        ("default", ["it", "'s", "Ġ1234", "Ġfoxes", "ĊĊĊĠ"]),
        ("gpt-2", ["it", "'s", "Ġ1234", "Ġfoxes", "ĊĊĊĠ"]),
        ("llama-bpe", ["it", "'s", "Ġ", "123", "4", "Ġfoxes", "ĊĊĊ", "Ġ"]),
    ],
)
def test_words_are_split_as_the_gguf_tokenizer_says(tmp_path: Path, kind: str, words: list[str]) -> None:
    built = Tokenizer.from_str(opened_gguf(tmp_path, pre=kind).tokenizer.tokenizer_json)
    found = built.pre_tokenizer.pre_tokenize_str("it's 1234 foxes\n\n\n ")
    assert [word for word, _ in found] == words


def test_gguf_tokenizer_that_adds_bos_does_so_in_its_file_too(tmp_path: Path) -> None:
    tokenizer = opened_gguf(tmp_path, add_bos_token=True, eot_token_id=4).tokenizer
    assert tokenizer.add_bos_token
    assert tokenizer.eos_token_ids == (0, 2, 4)
    built = Tokenizer.from_str(tokenizer.tokenizer_json)
    plain = built.encode("fox", add_special_tokens=False).ids
    assert built.encode("fox").ids == [1, *plain]


def test_user_defined_token_of_a_gguf_file_is_matched_whole_and_shown(tmp_path: Path) -> None:
    description = json.loads(tiny.tokenizer().to_str())["model"]["vocab"]
    tokens = [*sorted(description, key=description.__getitem__), "a whole thought"]
    types = [3, 3, 3, *[1] * (len(tokens) - 4), 4]
    built = Tokenizer.from_str(
        opened_gguf(tmp_path, tokens=tokens, token_type=types).tokenizer.tokenizer_json
    )
    assert built.encode("a whole thought").ids == [len(tokens) - 1]
    assert built.decode([len(tokens) - 1]) == "a whole thought"
