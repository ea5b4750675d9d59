"""The tokenizer's byte table is exact for every text, and prompts are encoded as the artifact says."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tests.server.artifacts import ADDED, END, VOCABULARY_SIZE, byte_characters, tokenizer_json
from tokenizers import decoders, models, pre_tokenizers, trainers

from cadenza.server.errors import ArtifactError
from cadenza.server.tokenizer import Tokenizer


def _trained() -> Tokenizer:
    """Byte-level BPE with merges, learnt from this file's own text."""
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([Path(__file__).read_text(), "äöü 日本語 🙂 " * 20], trainer)
    return Tokenizer(raw, raw.get_vocab_size() + 5, None)


TRAINED = _trained()


@given(st.text())
def test_bytes_of_a_texts_tokens_are_the_texts_utf8(text: str) -> None:
    joined = b"".join(TRAINED.token_bytes[token_id] for token_id in TRAINED.encode_now(text))
    assert joined == text.replace("<|end|>", "").encode()


@given(st.text(st.sampled_from(" \n\tañ\u0300\u200d🙂🏽日<|end>\x00\u202e'"), max_size=60))
def test_hostile_texts_too_and_no_fewer_tokens_than_the_lower_bound(text: str) -> None:
    ids = TRAINED.encode_now(text)
    assert b"".join(map(TRAINED.token_bytes.__getitem__, ids)) == text.replace("<|end|>", "").encode()
    assert len(ids) >= TRAINED.fewest_tokens(text)


def test_merges_are_in_use_so_the_table_is_not_only_of_single_bytes() -> None:
    assert max(map(len, TRAINED.token_bytes)) > 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json()))
    return path


def test_special_tokens_stand_for_nothing_and_added_ones_for_their_text(path: Path) -> None:
    tokenizer = Tokenizer.load(path, VOCABULARY_SIZE, None)
    assert tokenizer.encode_now("a<|end|>é<tool>") == (ord("a"), END, 0xC3, 0xA9, ADDED)
    assert tokenizer.token_bytes[END] == b""
    assert tokenizer.token_bytes[ADDED] == b"<tool>"
    assert tokenizer.token_bytes[VOCABULARY_SIZE - 1] == b""
    assert all(tokenizer.token_bytes[byte] == bytes([byte]) for byte in range(256))


async def test_long_text_gets_the_same_tokens_as_short_pieces(path: Path) -> None:
    tokenizer = Tokenizer.load(path, VOCABULARY_SIZE, 256)
    assert await tokenizer.encode("ab" * 5000, add_bos=True) == (256, *b"ab" * 5000)
    assert await tokenizer.encode("ab", add_bos=False) == (*b"ab",)


def test_stand_ins_cover_every_byte_once() -> None:
    assert len(set(byte_characters())) == 256


def test_tokenizer_with_more_tokens_than_the_model_is_refused(path: Path) -> None:
    with pytest.raises(ArtifactError, match="token id 258 is outside the model's vocabulary of 200"):
        Tokenizer.load(path, 200, None)


def test_other_kinds_of_tokenizer_are_refused(path: Path) -> None:
    path.write_text(json.dumps({**tokenizer_json(), "decoder": {"type": "Metaspace", "replacement": "▁"}}))
    with pytest.raises(ArtifactError, match="not a byte-level BPE"):
        Tokenizer.load(path, VOCABULARY_SIZE, None)
    path.write_text("{")
    with pytest.raises(ArtifactError, match="no tokenizer that can be read"):
        Tokenizer.load(path, VOCABULARY_SIZE, None)
