"""What engines are judged by: the likelihood of texts, and greedy answers to plain questions.

None of it is calibration text of the exporter.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.demo.models import ARTIFACTS
from tests.bench.rivals.driver import TokenIds
from tests.data import artifact_tokenizer, humaneval_tasks, novel_chapter

from cadenza.server.chat import ChatTemplate

TEXT_TOKENS: Final = 512
ANSWER_TOKENS: Final = 16
_QUESTIONS: Final = Path(__file__).with_name("questions.txt")
_BOS, _EOS = "<|im_start|>", "<|im_end|>"


@dataclasses.dataclass(frozen=True, slots=True)
class Exam:
    """The same token ids for every engine."""

    texts: Mapping[str, TokenIds]
    chats: Sequence[TokenIds]
    end_token: int
    """With it an answer ends; what comes behind it does not count."""


def exam(texts: int, questions: int) -> Exam:
    """The first of the texts and questions."""
    artifact = ARTIFACTS["float32"]
    tokenizer = artifact_tokenizer(artifact)
    end_token = tokenizer.token_to_id(_EOS)
    assert end_token is not None, f"the tokenizer has no {_EOS}"
    source = (artifact / "assets.extra" / "chat_template.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source, {"bos_token": _BOS, "eos_token": _EOS})
    asked = _QUESTIONS.read_text(encoding="utf-8").splitlines()[:questions]
    chats = [template.render([{"role": "user", "content": question}]) for question in asked]
    return Exam(
        texts={name: tokenizer.encode(text).ids[:TEXT_TOKENS] for name, text in _texts()[:texts]},
        chats=[tokenizer.encode(chat).ids for chat in chats],
        end_token=end_token,
    )


def _texts() -> Sequence[tuple[str, str]]:
    code = [task["prompt"] + task["canonical_solution"] for task in humaneval_tasks()]
    return (
        ("HumanEval 30-39", "".join(code[30:40])),
        ("Moby Dick, chapter 16", novel_chapter(16)),
        ("HumanEval 120-129", "".join(code[120:130])),
        ("Moby Dick, chapter 100", novel_chapter(100)),
    )
