"""Fixtures of the parity run: what the oracle has just written, and the SavedModel it is compared with."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
from deploy.demo.models import CACHE

ORACLE_OUTPUT: Final = CACHE / "parity"


@pytest.fixture(scope="session")
def oracle_output() -> Path:
    """The folder that the oracle has written."""
    if not (ORACLE_OUTPUT / "logits.npy").is_file():
        pytest.fail(f"the oracle has written nothing to {ORACLE_OUTPUT}: run `make parity`", pytrace=False)
    return ORACLE_OUTPUT


@pytest.fixture(scope="session")
def long_run(oracle_output: Path) -> dict[str, Any]:
    """The oracle's long run: token ids of many texts, and the likelihood of a novel's chapter."""
    content: dict[str, Any] = json.loads((oracle_output / "long.json").read_text(encoding="utf-8"))
    return content
