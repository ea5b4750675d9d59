"""The artifact's tokenizer against the oracle's, on hostile strings, a novel's chapter and code."""

from pathlib import Path
from typing import Any

from tests.data import artifact_tokenizer


def test_token_ids_are_the_oracles(real_int8: Path, long_run: dict[str, Any]) -> None:
    tokenizer = artifact_tokenizer(real_int8)
    assert len(long_run["encoded"]) > 600
    for entry in long_run["encoded"]:
        assert tokenizer.encode(entry["text"]).ids == entry["token_ids"], entry["text"][:200]


def test_decoding_gives_every_text_back(real_int8: Path, long_run: dict[str, Any]) -> None:
    tokenizer = artifact_tokenizer(real_int8)
    for entry in long_run["encoded"]:
        assert tokenizer.decode(entry["token_ids"], skip_special_tokens=False) == entry["text"]
