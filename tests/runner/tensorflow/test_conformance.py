"""The runner of TensorFlow does what every runner must: compiled by XLA, and as a plain graph."""

import numpy as np
import pytest
from tests.runner.conformance import SamplingConformance, SamplingSubject
from tests.runner.tensorflow.bigram_program import bigram_runner

from cadenza.server.runner.tensorflow.runner import TensorFlowRunner

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
