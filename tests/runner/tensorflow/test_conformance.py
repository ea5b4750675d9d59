"""The runner of TensorFlow does what every runner must: by XLA in a process of its own, as servers have
it, and as a plain graph.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.real.checks import LogitsFunction
from tests.real.saved_model import load_logits
from tests.runner.conformance import SamplingConformance, SamplingSubject
from tests.runner.tensorflow.bigram_program import bigram_runner
from tests.runner.tensorflow.exported import load
from tests.runner.tensorflow.processes import start

from cadenza.server.runner.base import Runner
from cadenza.server.runner.tensorflow.remote import RemoteRunner
from cadenza.server.runner.tensorflow.runner import TensorFlowRunner

pytestmark = pytest.mark.timeout(600)
TABLE = np.random.default_rng(5).normal(0, 2, (29, 29)).astype(np.float32)


@pytest.fixture(scope="module", params=[True, False], ids=["xla", "graph"])
def bigram(request: pytest.FixtureRequest) -> TensorFlowRunner:
    return bigram_runner(TABLE, jit=request.param)


class TestBigramProgram(SamplingConformance):
    """The runner's own part, on logits that are known exactly."""

    @pytest.fixture
    def subject(self, bigram: TensorFlowRunner) -> SamplingSubject:
        return SamplingSubject(
            bigram,
            vocabulary=len(TABLE),
            greedy_after=lambda tokens: TABLE[list(tokens)].argmax(axis=-1).tolist(),
            logits=lambda tokens: TABLE[list(tokens)],
        )


@pytest.fixture(scope="module", params=["process", "graph"])
def tiny(tiny_artifact: Path, request: pytest.FixtureRequest) -> Iterator[Runner]:
    runner: Runner
    if request.param == "process":
        runner = RemoteRunner(start(tiny_artifact))
    else:
        runner = load(tiny_artifact, jit=False)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def logits(tiny_artifact: Path) -> LogitsFunction:
    return load_logits(tiny_artifact)


class TestExportedModel(SamplingConformance):
    """An artifact's step program, against the artifact's own `logits` signature."""

    @pytest.fixture
    def subject(self, tiny: Runner, logits: LogitsFunction) -> SamplingSubject:
        return SamplingSubject(
            tiny,
            vocabulary=400,
            greedy_after=lambda tokens: logits(tokens).argmax(axis=-1).tolist(),
            logits=logits,
            tolerance=1e-4,
        )
