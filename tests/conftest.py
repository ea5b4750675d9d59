"""Fixtures of the real model: its two artifacts, the texts it is measured on, the oracle's reference.

They fail, never skip, where `make models` has not run.
"""

from pathlib import Path
from typing import Final

import pytest
from deploy.demo.models import ARTIFACTS, is_complete
from tests import data
from tests.real.checks import Reference, load_reference

REFERENCE: Final = Path(__file__).parent / "reference" / "smollm2-135m.json"


def _artifact(precision: str) -> Path:
    artifact = ARTIFACTS[precision]
    if not is_complete(artifact):
        pytest.fail(f"there is no {precision} export at {artifact}: run `make models`", pytrace=False)
    return artifact


@pytest.fixture(scope="session")
def real_int8() -> Path:
    """The folder of SmolLM2-135M-Instruct exported as int8."""
    return _artifact("int8")


@pytest.fixture(scope="session")
def real_float32() -> Path:
    """The folder of SmolLM2-135M-Instruct exported as float32."""
    return _artifact("float32")


@pytest.fixture(scope="session")
def humaneval_text() -> str:
    """The text whose likelihood is measured: HumanEval's first ten tasks with their solutions."""
    return data.humaneval_text()


@pytest.fixture(scope="session")
def reference(real_float32: Path) -> Reference:
    """What the oracle says of the real model."""
    tokenizer = data.artifact_tokenizer(real_float32)
    prompts = [task["prompt"] for task in data.humaneval_tasks()]
    return load_reference(REFERENCE, lambda text: tokenizer.encode(text).ids, prompts)
