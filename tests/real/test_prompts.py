"""The server turns the reference's texts and chats into the very token ids that the oracle read."""

from pathlib import Path

import pytest
from tests.real.checks import Reference

from cadenza.server.chat import ChatTemplate
from cadenza.server.tokenizer import Tokenizer

pytestmark = pytest.mark.real_model

VOCABULARY_SIZE = 49152


@pytest.fixture(scope="module")
def tokenizer(real_int8: Path) -> Tokenizer:
    return Tokenizer.load(real_int8 / "assets.extra" / "tokenizer.json", VOCABULARY_SIZE, None)


def test_texts_have_the_oracles_token_ids(tokenizer: Tokenizer, reference: Reference) -> None:
    texts = [case for case in reference.greedy if case.text is not None]
    assert len(texts) == 16
    for case in texts:
        assert tokenizer.encode_now(case.text or "") == case.prompt, case.name


def test_chats_have_the_oracles_token_ids(
    tokenizer: Tokenizer, real_int8: Path, reference: Reference
) -> None:
    source = (real_int8 / "assets.extra" / "chat_template.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    chats = [case for case in reference.greedy if case.chat]
    assert len(chats) == 4
    for case in chats:
        assert tokenizer.encode_now(template.render(case.chat)) == case.prompt, case.name
