"""The runners that tests use conform too, so what passes on them says something."""

from collections.abc import Sequence

import numpy as np
import pytest
from tests.engine.cache_runner import VOCABULARY, CacheRunner, next_token
from tests.runner.bigram import BigramRunner
from tests.runner.conformance import (
    DraftConformance,
    RunnerConformance,
    SamplingConformance,
    SamplingSubject,
    Subject,
)


class TestCacheRunner(RunnerConformance, DraftConformance):
    @pytest.fixture
    def subject(self) -> Subject:
        def greedy_after(tokens: Sequence[int]) -> list[int]:
            return [next_token(tokens[: end + 1]) for end in range(len(tokens))]

        return Subject(CacheRunner(), VOCABULARY, greedy_after)


class TestBigramRunner(SamplingConformance, DraftConformance):
    @pytest.fixture
    def subject(self) -> SamplingSubject:
        table = np.random.default_rng(5).normal(0, 2, (29, 29)).astype(np.float32)
        return SamplingSubject(
            BigramRunner(table),
            vocabulary=len(table),
            greedy_after=lambda tokens: table[list(tokens)].argmax(axis=-1).tolist(),
            logits=lambda tokens: table[list(tokens)],
        )
