"""Every model of the family tests, exported and loaded at most once, when a test first asks for it."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from tests.families import catalogue
from tests.families.cases import PROMPTS, Case, kept, write
from tests.real.checks import LogitsFunction
from tests.real.cpu_program import load_runner
from tests.real.saved_model import load_logits

from cadenza.export.exporter import export, open_source
from cadenza.export.model import Precision
from cadenza.server.runner.cpu.runner import CpuRunner

LARGEST_DIFFERENCE: Final = 1e-4
REFERENCE: Final = Path(__file__).parents[1] / "reference" / "families.json"


@dataclasses.dataclass(frozen=True, slots=True)
class PromptReference:
    """What transformers says of one prompt and its greedy continuation."""

    prompt: list[int]
    completion: list[int]
    logits: npt.NDArray[np.float64]
    """What `cases.kept` keeps of the logits of prompt and completion."""
    largest_logit: float


@dataclasses.dataclass(frozen=True, slots=True)
class CaseReference:
    """What transformers says of one model."""

    weights_sha256: str
    prompts: list[PromptReference]


class Models:
    """Exports and loads the models of the catalogue, and keeps them; `close` ends the runners."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runners: list[CpuRunner] = []
        self.source = functools.cache(self._write)
        self.opened = functools.cache(lambda case: open_source(self.source(case)))
        self.artifact = functools.cache(self._export)
        self.logits: Callable[[Case, Precision], LogitsFunction] = functools.cache(self._load)
        self.variables = functools.cache(self._variables)
        self.decoder = functools.cache(self._decoder)
        self.runner: Callable[..., CpuRunner] = functools.cache(self._run)

    def close(self) -> None:
        """Ends all runners."""
        for runner in self._runners:
            runner.close()

    def _write(self, case: Case) -> Path:
        return write(case, self._folder / case.file_name / "source")

    def _export(self, case: Case, precision: Precision) -> Path:
        output = self._folder / case.file_name / precision.value / "1"
        export(self.source(case), output, precision)
        return output

    def _load(self, case: Case, precision: Precision) -> LogitsFunction:
        return load_logits(self.artifact(case, precision))

    def _variables(self, case: Case) -> Any:
        """The source's weights as the SavedModel's variables."""
        import tensorflow as tf

        opened = self.opened(case)
        load = opened.blueprint.load
        return opened.blueprint.weights.map(
            lambda name, parts: tf.Variable(load(parts, opened.source), trainable=False, name=name)
        )

    def _decoder(self, case: Case) -> LogitsFunction:
        """The decoder's functions on the source's weights, without a SavedModel around them."""
        import tensorflow as tf

        from cadenza.export import decoder

        config, weights = self.opened(case).blueprint.config, self.variables(case)

        def logits(token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
            ids = tf.constant([token_ids], tf.int32)
            rows: npt.NDArray[np.float32] = decoder.logits(config, weights, ids)[0].numpy()
            return rows

        return logits

    def _run(self, case: Case, precision: Precision, kind: type[CpuRunner], lanes: int = 1) -> CpuRunner:
        self._runners.append(load_runner(self.artifact(case, precision), kind, lanes=lanes))
        return self._runners[-1]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """The catalogue's models."""
    result = Models(tmp_path_factory.mktemp("families"))
    yield result
    result.close()


@pytest.fixture(scope="session")
def references() -> dict[str, CaseReference]:
    """The oracle's answers by the cases' names."""
    return read_references(REFERENCE)


@pytest.fixture(params=catalogue.CASES, ids=lambda case: case.file_name)
def case(request: pytest.FixtureRequest) -> Case:
    """Every model of the catalogue in turn."""
    result: Case = request.param
    return result


@pytest.fixture(params=catalogue.EXPORTED, ids=lambda case: case.file_name)
def exported(request: pytest.FixtureRequest) -> Case:
    """Every model that is exported whole, in turn."""
    result: Case = request.param
    return result


@pytest.fixture
def exported_reference(exported: Case, references: dict[str, CaseReference]) -> CaseReference:
    """What transformers says of the exported case."""
    return references[exported.name]


@pytest.fixture
def reference(case: Case, references: dict[str, CaseReference]) -> CaseReference:
    """What transformers says of the case."""
    return references[case.name]


def assert_equals_reference(logits: LogitsFunction, reference: CaseReference) -> None:
    """Logits within LARGEST_DIFFERENCE of the largest one; the greedy token at every step."""
    assert len(reference.prompts) == len(PROMPTS)
    for part in reference.prompts:
        found = logits([*part.prompt, *part.completion])
        difference = np.abs(kept(found) - part.logits).max()
        assert difference <= LARGEST_DIFFERENCE * part.largest_logit
        assert found[len(part.prompt) - 1 : -1].argmax(axis=-1).tolist() == part.completion


def read_references(path: Path) -> dict[str, CaseReference]:
    """The oracle's file, by the cases' names."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {
        entry["name"]: CaseReference(entry["weights_sha256"], [_prompt(part) for part in entry["prompts"]])
        for entry in content["cases"]
    }


def _prompt(entry: dict[str, Any]) -> PromptReference:
    logits = np.array(entry["logits"])
    return PromptReference(entry["prompt"], entry["completion"], logits, entry["largest_logit"])
