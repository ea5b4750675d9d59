"""The CPU runner on the real model does what every runner must."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.cpu_program import KINDS, load_runner
from tests.runner.conformance import DraftConformance, SamplingConformance, SamplingSubject

from cadenza.server.runner.cpu.runner import CpuRunner

pytestmark = pytest.mark.real_model

VOCABULARY_SIZE = 49152


@pytest.fixture(scope="module", params=KINDS)
def runner(real_int8: Path, request: pytest.FixtureRequest) -> Iterator[CpuRunner]:
    runner = load_runner(real_int8, request.param)
    yield runner
    runner.close()


class TestCpuRunner(SamplingConformance, DraftConformance):
    @pytest.fixture
    def subject(self, runner: CpuRunner) -> SamplingSubject:
        return SamplingSubject(
            runner,
            VOCABULARY_SIZE,
            greedy_after=lambda tokens: runner.logits(tokens).argmax(axis=-1).tolist(),
            logits=runner.logits,
        )
