"""The CPU runner on the real model does what every runner must."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.cpu_program import load_runner
from tests.runner.conformance import DraftConformance, SamplingConformance, SamplingSubject

from cadenza.server.runner.litert import LiteRTRunner

pytestmark = pytest.mark.real_model

VOCABULARY_SIZE = 49152


@pytest.fixture(scope="module")
def runner(real_int8: Path) -> Iterator[LiteRTRunner]:
    runner = load_runner(real_int8)
    yield runner
    runner.close()


class TestLiteRTRunner(SamplingConformance, DraftConformance):
    @pytest.fixture
    def subject(self, runner: LiteRTRunner) -> SamplingSubject:
        return SamplingSubject(
            runner,
            VOCABULARY_SIZE,
            greedy_after=lambda tokens: runner.logits(tokens).argmax(axis=-1).tolist(),
            logits=runner.logits,
        )
