"""What travels between the server and the processes of its devices, and how it becomes bytes.

Messages are pickled, and the reader takes only the types listed here beside Python's own containers, numbers
and strings: whatever else a pickle names is refused before it is imported.
"""

import dataclasses
import io
import operator
import pickle
from array import array
from collections.abc import Callable
from typing import Any, Literal

from cadenza.server.engine.request import SamplingParams, TokenLogprob
from cadenza.server.errors import StartupError
from cadenza.server.runner.base import (
    BlockCopy,
    RunnerError,
    RunnerLimits,
    SequenceSlice,
    StepBatch,
    StepResult,
)
from cadenza.server.runner.devices import DeviceChoice
from cadenza.server.runner.tensorflow.options import TensorFlowOptions

_PROTOCOL = 5
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (RunnerError, ValueError, StartupError)
}


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """The first message to a process that is to say which devices there are, and to end."""

    choice: DeviceChoice


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The answer to a probe."""

    backend: str
    """A Backend; empty where there is none and nobody insists."""
    count: int
    free_bytes: int
    """On the device that has least."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """The first message to a process that is to run a model on the first device it sees."""

    model: str
    version: int
    path: str
    manifest: bytes
    """A ModelManifest."""
    options: TensorFlowOptions
    backend: str
    """A Backend."""
    device: int
    """Which of the server's devices it is, for the log."""
    log_format: Literal["json", "human"]
    log_level: str


@dataclasses.dataclass(frozen=True, slots=True)
class Compiled:
    """XLA compiled a program. May come before any answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Warm:
    """The answer to a load: steps may come."""

    limits: RunnerLimits


@dataclasses.dataclass(frozen=True, slots=True)
class Raised:
    """An answer that is an error."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: Exception) -> "Raised":
        """Of a ValueError or a StartupError as they are, of everything else as a RunnerError."""
        kind = next((kind for kind in (StartupError, ValueError) if isinstance(error, kind)), RunnerError)
        return cls(kind.__name__, str(error))

    def error(self) -> Exception:
        """What was raised."""
        return _ERRORS[self.kind](self.text)


def pack(message: object) -> bytes:
    """A message as bytes."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, _PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(message)
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """The message that the bytes stand for. Raises pickle.UnpicklingError where they name anything else."""
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _BY_NAME[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no type that travels") from None


def _reducer(kind: type) -> Callable[[Any], tuple[type, tuple[Any, ...]]]:
    """Calls the type with its fields: several times as fast as what dataclasses with slots do by default."""
    names = [field.name for field in dataclasses.fields(kind)]
    if len(names) < 2:
        return lambda one: (kind, tuple(getattr(one, name) for name in names))
    values = operator.attrgetter(*names)
    return lambda one: (kind, values(one))


def _reduce_array(numbers: "array[Any]") -> tuple[type, tuple[Any, ...]]:
    return array, (numbers.typecode, numbers.tobytes())


_DATACLASSES: tuple[type, ...] = (
    StepBatch, SequenceSlice, BlockCopy, SamplingParams, StepResult, TokenLogprob, RunnerLimits,
    TensorFlowOptions, Probe, Found, Load, Compiled, Warm, Raised,
)  # fmt: skip
_REDUCERS: dict[type, Callable[[Any], Any]] = {kind: _reducer(kind) for kind in _DATACLASSES}
_REDUCERS[array] = _reduce_array
_BY_NAME = {(kind.__module__, kind.__qualname__): kind for kind in _REDUCERS}
