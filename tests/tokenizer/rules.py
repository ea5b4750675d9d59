"""Tokenizers with the rules of known families, on the vocabularies that can be had: GPT-2's and SmolLM2's."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.data import GPT2_MERGES, GPT2_VOCABULARY, data_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

ROOT: Final = Path(__file__).resolve().parents[2]
SMOLLM2: Final = ROOT / "models/smollm2-135m/1/assets.extra/tokenizer.json"

LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2: Final = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_TAIL: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}|\p{{N}}{{1,3}}{_TAIL}"
)
TEKKEN: Final = O200K.replace(_CONTRACTION, "").replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK_CODER: Final = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+")


@functools.cache
def gpt2() -> Tokenizer:
    """GPT-2's own tokenizer."""
    tokenizer = Tokenizer(_gpt2_model())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return tokenizer


@functools.cache
def smollm2() -> Tokenizer:
    """SmolLM2's own tokenizer."""
    return Tokenizer.from_file(str(SMOLLM2))


@functools.cache
def llama3() -> Tokenizer:
    """Llama 3's rules: words that are tokens are not merged, digits by three."""
    tokenizer = _split_by(LLAMA3, ignore_merges=True)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"])
    return tokenizer


@functools.cache
def qwen2() -> Tokenizer:
    """Qwen 2's rules: form C, single digits."""
    tokenizer = _split_by(QWEN2)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False, special=False)])
    return tokenizer


@functools.cache
def pythia() -> Tokenizer:
    """GPT-NeoX's and Pythia's rules: form C, and runs of spaces as added tokens that are no special ones."""
    tokenizer = Tokenizer.from_str(gpt2().to_str())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(" " * length, normalized=True) for length in range(24, 1, -1)])
    return tokenizer


@functools.cache
def o200k() -> Tokenizer:
    """GPT-4o's rules."""
    return _split_by(O200K)


@functools.cache
def tekken() -> Tokenizer:
    """The rules of Mistral's tekken."""
    return _split_by(TEKKEN)


@functools.cache
def deepseek_coder() -> Tokenizer:
    """DeepSeek Coder's rules: several splits after one another, which leave parts of the text unmatched."""
    tokenizer = _split_by(QWEN2)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in DEEPSEEK_CODER),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


@functools.cache
def strange_tokens() -> Tokenizer:
    """Added tokens that overlap, are not in form C, or hold signs of regular expressions or of bytes."""
    tokenizer = Tokenizer.from_str(pythia().to_str())
    tokenizer.add_tokens(
        [
            *(
                AddedToken(text, normalized=False)
                for text in ("a+b*", "ab", "abc", "[x]", "\\", "\n\n", "é", "Ġ")
            ),
            *(
                AddedToken(text, normalized=True)
                for text in ("e\u0301e", "abcd", "가나", "\u1112\u1161", "z")
            ),
        ]
    )
    return tokenizer


FAMILIES: Final[dict[str, Callable[[], Tokenizer]]] = {
    build.__name__: build
    for build in (gpt2, smollm2, llama3, qwen2, pythia, o200k, tekken, deepseek_coder, strange_tokens)
}


def _gpt2_model(*, ignore_merges: bool = False) -> models.BPE:
    vocabulary = json.loads(data_file(GPT2_VOCABULARY).read_text(encoding="utf-8"))
    lines = data_file(GPT2_MERGES).read_text(encoding="utf-8").split("\n")[1:]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines if line)]
    return models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges)


def _split_by(pattern: str, *, ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(_gpt2_model(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
