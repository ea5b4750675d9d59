"""Text to token ids and the bytes that token ids stand for, from an artifact's tokenizer.json.

Byte-level BPE tokenizers are served (GPT-2, Llama 3, Qwen, SmolLM, ...): their vocabulary writes each of the
256 bytes as one printable character.
"""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from cadenza.server.errors import ArtifactError

_LONG_TEXT = 4096
"""Characters; longer texts are tokenized outside the loop (a shorter one takes about a millisecond)."""


class Tokenizer:
    """One model's tokenizer. Immutable once made, so any thread may use it."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, vocabulary_size: int, bos_token_id: int | None
    ) -> None:
        """`bos_token_id` goes before every plain text; None adds nothing. Raises ArtifactError."""
        self._tokenizer = tokenizer
        self._bos = () if bos_token_id is None else (bos_token_id,)
        self.token_bytes = _token_bytes(tokenizer, vocabulary_size)
        """[vocabulary_size]; b"" for special tokens and for ids that the tokenizer does not have."""
        added = (len(token.content) for token in tokenizer.get_added_tokens_decoder().values())
        self._longest_token = max(1, *map(len, self.token_bytes), *added)

    @classmethod
    def load(cls, path: Path, vocabulary_size: int, bos_token_id: int | None) -> "Tokenizer":
        """Reads tokenizer.json. Raises ArtifactError where it cannot be read or is not byte-level BPE."""
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise ArtifactError(f"{path} is no tokenizer that can be read: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if "ByteLevel" not in _decoder_types(json.loads(tokenizer.to_str())["decoder"]):
            raise ArtifactError(f"{path} is not a byte-level BPE tokenizer; no other kind is served")
        try:
            return cls(tokenizer, vocabulary_size, bos_token_id)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error

    async def encode(self, text: str, *, add_bos: bool) -> tuple[int, ...]:
        """The text's token ids. Special tokens written in the text are recognised."""
        if len(text) > _LONG_TEXT:
            ids = await asyncio.to_thread(self.encode_now, text)
        else:
            ids = self.encode_now(text)
        return self._bos + ids if add_bos else ids

    async def encode_all(self, texts: Iterable[str], *, add_bos: bool) -> list[tuple[int, ...]]:
        """As `encode` for many texts, outside the loop; `texts` may be made as they are taken."""
        bos = self._bos if add_bos else ()
        return await asyncio.to_thread(lambda: [bos + self.encode_now(text) for text in texts])

    def encode_now(self, text: str) -> tuple[int, ...]:
        """As `encode` in the calling thread, without a beginning-of-sequence token."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def fewest_tokens(self, text: str) -> int:
        """A lower bound on the text's tokens, without tokenizing: its length over the longest token's."""
        return -(-len(text) // self._longest_token)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The tokens' text: special tokens as the vocabulary writes them, U+FFFD for what is no text."""
        return b"".join(map(self.written, token_ids)).decode(errors="replace")

    def written(self, token_id: int) -> bytes:
        """The token's bytes: of special tokens as the vocabulary writes them."""
        return self.token_bytes[token_id] or (self.token(token_id) or "").encode()

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary writes it; None for an id that it does not have."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token


def _token_bytes(tokenizer: tokenizers.Tokenizer, vocabulary_size: int) -> tuple[bytes, ...]:
    """Raises ArtifactError where the tokenizer has ids that the model does not."""
    table = [b""] * vocabulary_size
    added = tokenizer.get_added_tokens_decoder()
    ids = [*tokenizer.get_vocab(with_added_tokens=False).values(), *added]
    if ids and max(ids) >= vocabulary_size:
        raise ArtifactError(
            f"token id {max(ids)} is outside the model's vocabulary of {vocabulary_size} tokens"
        )
    stand_ins = _byte_stand_ins()
    for text, token_id in tokenizer.get_vocab(with_added_tokens=False).items():
        table[token_id] = b"".join(stand_ins.get(character, character.encode()) for character in text)
    for token_id, token in added.items():
        table[token_id] = b"" if token.special else token.content.encode()
    return tuple(table)


def _byte_stand_ins() -> dict[str, bytes]:
    """What byte-level BPE writes for each byte: its own character where printable, else one from U+0100 on.

    From GPT-2 (Radford et al., 2019), `bytes_to_unicode` of its encoder.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): bytes([byte]) for byte in printable}
    characters.update({chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)})
    return characters


def _decoder_types(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_decoder_types(part) for part in decoder.get("decoders", ())))
