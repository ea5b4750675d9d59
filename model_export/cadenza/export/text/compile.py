"""tokenizer.json to `CompiledTokenizer`: the rules and tables that the graph is built from, as plain values.

Everything that would make the graph's token ids differ from those of `tokenizers` is refused here, by name.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cadenza.export.errors import TokenizerError
from cadenza.export.text import unicode
from cadenza.export.text.nfc import NfcTables, nfc_tables
from cadenza.export.text.regex import PatternError, Replacement, around, class_of, split_by

_GPT2_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_NEVER_IN_UTF8: Final = frozenset({0xC0, 0xC1, *range(0xF5, 0x100)})

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledTokenizer:
    """A byte-level BPE tokenizer as rules and tables; strings are whole tokens, bytes are UTF-8."""

    raw_tokens: tuple[tuple[str, int], ...]
    """Added tokens that are cut out of the text first, and their ids; longest first."""
    normalized_tokens: tuple[tuple[str, int], ...]
    """Added tokens that are cut out of the text after its normalization; longest first."""
    normalization: NfcTables | None
    """Unicode's form C, or none."""
    splits: tuple[Replacement, ...]
    """Passes that separate words, in order."""
    byte_ids: NDArray[np.int32]
    """[256]; -1 for bytes that the vocabulary lacks: they are left out of the text, as in `tokenizers`."""
    merge_pairs: NDArray[np.int32]
    """[M, 2]; the two tokens that each merge joins, best merge first."""
    merged_ids: NDArray[np.int32]
    """[M]; the token that they become."""
    longest_token: int
    """Bytes of the longest token that merging makes."""
    whole_words: Mapping[bytes, int]
    """Words that are one token whatever the merges say."""
    token_bytes: Mapping[int, bytes]
    """What each token id stands for."""
    special_ids: frozenset[int]
    """Token ids that may be left out of the text."""


def compile_tokenizer(text: str) -> CompiledTokenizer:
    """Compiles the contents of a tokenizer.json.

    Raises:
        TokenizerError: a part of it cannot be compiled exactly; the message names the part.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
        description = json.loads(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"tokenizer.json cannot be read: {error}") from error
    _check_kind(description)
    model = description["model"]
    _check_model(model)
    normalization = _normalization(description.get("normalizer"))
    raw, normalized = _added_tokens(tokenizer)
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    byte_of = _byte_alphabet()
    pairs, merged = _merges(model["merges"], vocabulary)
    added = tokenizer.get_added_tokens_decoder()
    words = {token: token_id for token, token_id in vocabulary.items() if byte_of.keys() >= set(token)}
    tokens = {token_id: token for token, token_id in vocabulary.items()}
    tokens |= {token_id: str(tokenizer.id_to_token(token_id)) for token_id in added}  # in the normalized form
    return CompiledTokenizer(
        raw_tokens=raw,
        normalized_tokens=normalized,
        normalization=normalization,
        splits=_splits(description.get("pre_tokenizer")),
        byte_ids=_byte_ids(model, vocabulary, byte_of),
        merge_pairs=pairs,
        merged_ids=merged,
        longest_token=max((len(tokens[token_id]) for token_id in merged.tolist()), default=1),
        whole_words={_bytes(token, byte_of): token_id for token, token_id in words.items()}
        if model.get("ignore_merges")
        else {},
        token_bytes={token_id: _bytes(token, byte_of) for token_id, token in tokens.items()},
        special_ids=frozenset(
            token_id for token_id in added if not tokenizer.decode([token_id], skip_special_tokens=True)
        ),
    )


def _check_kind(description: Json) -> None:
    model, decoder = description.get("model"), description.get("decoder")
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in (model, decoder)]
    if kinds != ["BPE", "ByteLevel"]:
        raise TokenizerError(
            f"tokenizer.json has a model of type {kinds[0]} and a decoder of type {kinds[1]}; "
            "only byte-level BPE (BPE and ByteLevel) is supported, not Unigram, WordPiece or SentencePiece"
        )


def _check_model(model: Json) -> None:
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise TokenizerError(
                f"model.{name} of tokenizer.json is {model[name]!r}; "
                "only byte-level BPE without it is supported"
            )


def _normalization(normalizer: Json | None) -> NfcTables | None:
    match normalizer:
        case None | {"type": "Sequence", "normalizers": []}:
            return None
        case {"type": "NFC"} | {"type": "Sequence", "normalizers": [{"type": "NFC"}]}:
            return nfc_tables()
    kind = normalizer.get("type")
    raise TokenizerError(f"normalizer of tokenizer.json is {kind}; only NFC or none is supported")


def _splits(pre_tokenizer: Json | None) -> tuple[Replacement, ...]:
    stages = [pre_tokenizer or {}]
    if stages[0].get("type") == "Sequence":
        stages = stages[0]["pretokenizers"]
    kinds = [stage.get("type") for stage in stages]
    if not kinds or kinds.index("ByteLevel") != len(kinds) - 1 if "ByteLevel" in kinds else True:
        raise TokenizerError(
            f"pre_tokenizer of tokenizer.json is {kinds}; its last stage, and no other, must be ByteLevel"
        )
    return tuple(replacement for stage in stages for replacement in _stage(stage))


def _stage(stage: Json) -> tuple[Replacement, ...]:
    match stage:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return _words(_GPT2_WORDS) if stage.get("use_regex", True) else ()
        case {"type": "ByteLevel"}:
            raise TokenizerError(
                "pre_tokenizer ByteLevel of tokenizer.json has add_prefix_space=true; it must be false"
            )
        case {"type": "Digits", "individual_digits": bool(each)}:
            return (around(class_of(unicode.numeric()) + ("" if each else "+")),)
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return _words(pattern)
    raise TokenizerError(
        f"pre_tokenizer {json.dumps(stage)[:200]} of tokenizer.json is not supported; allowed are ByteLevel, "
        "Digits, and Split by a Regex with behavior Isolated and invert false"
    )


def _words(pattern: str) -> tuple[Replacement, ...]:
    try:
        return split_by(pattern)
    except PatternError as error:
        raise TokenizerError(
            f"pre_tokenizer Split of tokenizer.json has the pattern {pattern!r}, "
            f"which cannot be compiled: {error}"
        ) from error


def _added_tokens(
    tokenizer: Tokenizer,
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    """Added tokens matched before and after normalization, longest first: the longest of several wins."""
    found: dict[bool, dict[str, int]] = {False: {}, True: {}}
    for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        for name in ("single_word", "lstrip", "rstrip"):
            if getattr(token, name):
                raise TokenizerError(
                    f"added token {token.content!r} of tokenizer.json has {name}=true; it must be false"
                )
        content = token.content
        if token.normalized and tokenizer.normalizer is not None:
            content = tokenizer.normalizer.normalize_str(content)
        if content in found[token.normalized]:
            raise TokenizerError(
                f"added token {token.content!r} of tokenizer.json is there twice after normalization"
            )
        found[token.normalized][content] = token_id
    raw, normalized = (
        tuple(sorted(tokens.items(), key=lambda item: -len(item[0].encode()))) for tokens in found.values()
    )
    return raw, normalized


def _byte_ids(model: Json, vocabulary: Mapping[str, int], byte_of: Mapping[str, int]) -> NDArray[np.int32]:
    ids = np.full(256, -1, np.int32)
    for character, byte in byte_of.items():
        ids[byte] = vocabulary.get(character, -1)
    missing = [byte for byte in np.flatnonzero(ids < 0).tolist() if byte not in _NEVER_IN_UTF8]
    if missing and model.get("unk_token") is not None:
        raise TokenizerError(
            f"model.vocab of tokenizer.json has no token for the bytes {missing[:8]} and model.unk_token "
            f"is {model['unk_token']!r}; give each byte a token, or set model.unk_token to null"
        )
    return ids


def _merges(
    merges: Sequence[str | Sequence[str]], vocabulary: Mapping[str, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pairs and results, best first. Of a pair that is there twice the last counts, as in `tokenizers`."""
    parts = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    ranks = {pair: rank for rank, pair in enumerate(parts)}
    ordered = sorted(ranks, key=ranks.__getitem__)
    _check_order(ordered)
    pairs = [(vocabulary[left], vocabulary[right]) for left, right in ordered]
    merged = [vocabulary[left + right] for left, right in ordered]
    return np.array(pairs, np.int32).reshape(-1, 2), np.array(merged, np.int32)


def _check_order(ordered: Sequence[tuple[str, ...]]) -> None:
    """A token that a merge uses must be made by better merges only.

    Then no merge opens the way to a better one: all places of the best merge in a word may go at once.
    """
    last_made = {left + right: rank for rank, (left, right) in enumerate(ordered)}
    for rank, pair in enumerate(ordered):
        for part in pair:
            if len(part) > 1 and last_made.get(part, rank) >= rank:
                raise TokenizerError(
                    f"model.merges of tokenizer.json joins {pair} before {part!r} can be made; "
                    "every merge must come after those that make its parts"
                )


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2), and the byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


def _bytes(token: str, byte_of: Mapping[str, int]) -> bytes:
    """What a token stands for: bytes where all its characters stand for one, else the token's own text."""
    if byte_of.keys() >= set(token):
        return bytes(byte_of[character] for character in token)
    return token.encode()
