"""A server whose model runs in a process with TensorFlow answers TensorFlow Serving's API without it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deploy.demo.serving import serve
from tests.export import tiny
from tests.tfserving.client import sampling
from tests.tfserving.comparison import Predict, assert_equal, run_by_tensorflow, served

from cadenza.export.exporter import export
from cadenza.export.model import Precision

FLAGS = ("--runner", "tensorflow", "--max-sequences", "2", "--max-step-tokens", "8")
pytestmark = pytest.mark.timeout(600)
TEXTS = np.array(["ab c", "naïve 東京", "hello there"], object)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and a token before every text."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = tiny.Tiny(layers=1)
    weights = tiny.random_weights(sizes)
    export(
        tiny.write_hugging_face(folder / "source", sizes, weights, bos="<|im_start|>"),
        folder / "tiny/1",
        Precision.FLOAT32,
    )
    return folder / "tiny/1"


@pytest.fixture(scope="module")
def predict(artifact: Path) -> Iterator[Predict]:
    with serve({"tiny": artifact}, *FLAGS, timeout=400) as process, served(process.target, "tiny") as run:
        assert "/tensorflow/" not in Path(f"/proc/{process.process.pid}/maps").read_text(encoding="utf-8")
        yield run


def test_completions_are_the_saved_models(predict: Predict, artifact: Path) -> None:
    columns = sampling(3, max_tokens=[8, 3, 5], temperature=[0, 0.9, 0], seed=[0, 5, 0])
    inputs = {"prompt": TEXTS, **columns}
    assert_equal(predict("complete", inputs), run_by_tensorflow(artifact)("complete", inputs))
