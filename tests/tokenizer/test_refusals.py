"""What cannot be compiled exactly is refused, and the part of tokenizer.json is named."""

import json
from typing import Any

import pytest
from tests.tokenizer import rules

from cadenza.export.errors import TokenizerError
from cadenza.export.text import unicode
from cadenza.export.text.compile import compile_tokenizer

SPLIT = {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def description() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(rules.gpt2().to_str())
    return content


def splits(**changes: object) -> dict[str, Any]:
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT | changes, BYTES]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}}, "only byte-level BPE"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a",
                    "continuing_subword_prefix": "#", "max_input_chars_per_word": 9}}, "only byte-level BPE"),
        ({"decoder": None}, "only byte-level BPE"),
        ({"normalizer": {"type": "NFKC"}}, "normalizer of tokenizer.json is NFKC"),
        ({"normalizer": {"type": "Prepend", "prepend": "_"}}, "normalizer of tokenizer.json is Prepend"),
        ({"pre_tokenizer": None}, "must be ByteLevel"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "must be ByteLevel"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}, "must be ByteLevel"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES, SPLIT]}}, "must be ByteLevel"),
        ({"pre_tokenizer": BYTES | {"add_prefix_space": True}}, "add_prefix_space=true"),
        (splits(behavior="Removed"), "behavior Isolated"),
        (splits(invert=True), "invert false"),
        (splits(pattern={"String": "x"}), "Split by a Regex"),
        (splits(pattern={"Regex": r"a(?!b)"}), "a lookahead is supported only as the end"),
        (splits(pattern={"Regex": r"(?<=a)b"}), "not supported"),
        (splits(pattern={"Regex": r"\p{L}++"}), "possessive"),
        (splits(pattern={"Regex": r"a+?"}), "lazy"),
        (splits(pattern={"Regex": r"(a)\1"}), "not supported"),
        (splits(pattern={"Regex": r"a*"}), "matches the empty text"),
        (splits(pattern={"Regex": r"(?i:ss)"}), "also matches a single character"),
        (splits(pattern={"Regex": r"  x|\s+(?!\S)|\s+"}), "more than one leading space"),
    ],
)  # fmt: skip
def test_part_that_cannot_be_compiled_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json") as refused:
        compile_tokenizer(json.dumps(description() | change))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dropout", 0.1),
        ("continuing_subword_prefix", "##"),
        ("end_of_word_suffix", "</w>"),
        ("byte_fallback", True),
    ],
)
def test_setting_of_the_model_is_named(name: str, value: object) -> None:
    content = description()
    content["model"] = {**content["model"], "vocab": {"a": 0}, "merges": [], name: value}
    with pytest.raises(TokenizerError, match=f"model.{name} of tokenizer.json is {value!r}"):
        compile_tokenizer(json.dumps(content))


@pytest.mark.parametrize("name", ["lstrip", "rstrip", "single_word"])
def test_added_token_that_takes_its_surroundings_is_named(name: str) -> None:
    content = description()
    content["added_tokens"][0][name] = True
    with pytest.raises(
        TokenizerError, match=f"added token '<.endoftext.>' of tokenizer.json has {name}=true"
    ):
        compile_tokenizer(json.dumps(content))


def test_merge_before_those_that_make_its_parts_is_named() -> None:
    content = description()
    content["model"]["merges"].reverse()
    with pytest.raises(TokenizerError, match="every merge must come after those that make its parts"):
        compile_tokenizer(json.dumps(content))


def test_missing_byte_beside_an_unknown_token_is_named() -> None:
    content = description()
    content["model"] |= {"vocab": {"a": 0, "b": 1}, "merges": [], "unk_token": "a"}
    with pytest.raises(TokenizerError, match="has no token for the bytes"):
        compile_tokenizer(json.dumps(content))


@pytest.mark.parametrize("escape", [r"\p{L}", r"\p{N}", r"\s", r"\p{Lu}", r"\p{M}"])
def test_planes_that_are_only_sampled_hold_no_character_of_a_class(escape: str) -> None:
    probed = unicode.matching(escape)
    every = "".join(chr(point) for point in range(0x40000, 0x110000) if not 0xE0000 <= point < 0xF0000)
    assert [span for span in probed if span[1] >= 0x40000 and not 0xE0000 <= span[0] < 0xF0000] == []
    assert unicode._matches(escape, every) == []
