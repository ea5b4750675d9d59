"""A small exported model, for all tests of this folder."""

from pathlib import Path

import pytest
from tests.export import tiny

from cadenza.export.exporter import export
from cadenza.export.model import Precision


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama's architecture with random weights, 400 tokens, a context of 128, exported as float32."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = tiny.Tiny()
    source = tiny.write_hugging_face(folder / "source", sizes, tiny.random_weights(sizes))
    export(source, folder / "tiny/1", Precision.FLOAT32)
    return folder / "tiny/1"
