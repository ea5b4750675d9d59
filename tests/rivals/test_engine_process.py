"""An engine's process: what it is asked, what comes back, and how it may fail."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.bench.rivals.driver import Settings
from tests.bench.rivals.process import EngineError, EngineProcess

SECONDS = 60.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    settings = Settings("a-model", 1, 8, 128, 1024, speculates=False, options={})
    driver = [sys.executable, "-m", "tests.rivals.counting_engine", json.dumps(dataclasses.asdict(settings))]
    process = EngineProcess(driver, {}, tmp_path / "logs" / "engine.log")
    try:
        assert process.wait_loaded(SECONDS) >= 0
        yield process
    finally:
        process.end()


def test_completions_come_back_with_their_tokens_and_times(engine: EngineProcess) -> None:
    first, second = engine.complete([[5, 10], [20]], 3, timeout=SECONDS)
    assert (first.token_ids, first.times) == ([11, 12, 13], [0.5, 0.5, 0.5])
    assert second.token_ids == [21, 22, 23]
    assert engine.peak_bytes() > 1 << 20


def test_mean_nll_is_the_mean_of_the_negative_logprobs(engine: EngineProcess) -> None:
    assert engine.mean_nll([4, 8, 4], timeout=SECONDS) == pytest.approx((4.0 + 1.0) / 2)


def test_what_an_engine_prints_is_in_its_log_and_not_among_answers(
    engine: EngineProcess, tmp_path: Path
) -> None:
    engine.complete([[5]], 1, timeout=SECONDS)
    assert "loading a-model" in (tmp_path / "logs" / "engine.log").read_text(encoding="utf-8")


def test_an_error_of_the_engine_is_told_and_the_engine_goes_on(engine: EngineProcess) -> None:
    with pytest.raises(EngineError, match="ValueError: there is nothing before 1"):
        engine.complete([[0]], 1, timeout=SECONDS)
    assert engine.complete([[7]], 1, timeout=SECONDS)[0].token_ids == [8]


def test_an_engine_that_ends_is_told_with_its_last_words(engine: EngineProcess) -> None:
    with pytest.raises(EngineError, match=r"it ended: .*out of tokens"):
        engine.complete([[1]], 1, timeout=SECONDS)


def test_an_engine_that_is_silent_is_given_up(engine: EngineProcess) -> None:
    with pytest.raises(EngineError, match=r"no answer within 0\.2 s"):
        engine.complete([[2]], 1, timeout=0.2)


def test_a_halted_engine_answers_when_it_goes_on(engine: EngineProcess) -> None:
    engine.halt()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(engine.complete, [[7]], 1, timeout=SECONDS)
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.3)
        engine.go_on()
        assert answer.result()[0].token_ids == [8]
