"""The processes of one division: all loaded, one at work."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from deploy.demo.models import ROOT
from tests.bench.rivals.contestants import CORES, Contestant, Division
from tests.bench.rivals.driver import Settings
from tests.bench.rivals.environments import ENVIRONMENTS, InstallError, ensure
from tests.bench.rivals.measurement import MAX_CONTEXT, MAX_SEQUENCES, Measurement
from tests.bench.rivals.models import ConversionError, ensure_model
from tests.bench.rivals.process import EngineError, EngineProcess
from tests.bench.rivals.results import Result

LOGS: Final = ROOT / "build" / "bench" / "rivals-logs"
_LOAD_SECONDS: Final = 900.0
"""vLLM compiles its programs at the first start."""

Turn = Callable[[EngineProcess, Result], None]


class Arena:
    """Loads contestants and lets one after the other have its turn while all others are halted.

    Leaving it ends them all. One that fails is noted with its reason and leaves; the others go on.
    """

    def __init__(self, results: Sequence[Result], measurement: Measurement) -> None:
        self._results = results
        self._measurement = measurement
        self._processes: dict[str, EngineProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.end()

    def load(self) -> None:
        """Starts one after the other and warms it up."""
        for result in self._results:
            with self._noting_failure(result):
                self._load(result)

    def turns(self, turn: Turn, takes_part: Callable[[Contestant], bool] = lambda _: True) -> None:
        """One turn for each that takes part and is still there."""
        for result in self._results:
            process = self._processes.get(_key(result.contestant))
            if process is None or not takes_part(result.contestant):
                continue
            with self._noting_failure(result):
                process.go_on()
                turn(process, result)
                result.peak_bytes = process.peak_bytes()
                process.halt()

    def _load(self, result: Result) -> None:
        contestant = result.contestant
        process = start(contestant, self._measurement)
        self._processes[_key(contestant)] = process
        result.load_seconds = process.wait_loaded(_LOAD_SECONDS)
        self._measurement.warm_up(process, contestant)
        process.halt()

    @contextlib.contextmanager
    def _noting_failure(self, result: Result) -> Iterator[None]:
        try:
            yield
        except (EngineError, InstallError, ConversionError, ValueError) as error:
            result.failure = str(error)
            process = self._processes.pop(_key(result.contestant), None)
            if process is not None:
                process.end()


def start(contestant: Contestant, measurement: Measurement) -> EngineProcess:
    """Starts the process; installs and converts before what is not there."""
    settings = Settings(
        model=str(ensure_model(contestant.model)),
        threads=CORES,
        max_sequences=MAX_SEQUENCES,
        max_context=MAX_CONTEXT,
        kv_tokens=measurement.kv_tokens(contestant),
        speculates=contestant.division is Division.SPECULATING,
        options=dict(contestant.options),
    )
    python, variables = Path(sys.executable), dict(contestant.variables)
    if not contestant.ours:
        environment = ENVIRONMENTS[contestant.engine]
        ensure(environment)
        python = environment.python
        folder = str(environment.folder)
        variables = {name: value.format(environment=folder) for name, value in variables.items()}
    driver = f"tests.bench.rivals.drivers.{contestant.driver}"
    command = [str(python), "-m", driver, json.dumps(dataclasses.asdict(settings))]
    return EngineProcess(command, variables, LOGS / f"{_key(contestant)}.log")


def _key(contestant: Contestant) -> str:
    """Unlike its name alone, of one contestant only."""
    return f"{contestant.name} {contestant.division.name}".lower().replace(" ", "-").replace(",", "")
