"""LiteRT's C API, as much of it as the runner needs: load flatbuffers, bind memory, run by address.

The Python API of the same library copies tensors and takes Python's lock at each call; the C API runs on
memory of ours and can be called from compiled code. Names and layouts: litert/c/*.h of the LiteRT project.
"""

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ai_edge_litert
import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes; LiteRT refuses memory that is aligned worse."""

_FLOAT32 = 1
_CPU = 1
_ANY_INT = 2
_OPTION_ACCELERATORS = 24
_OPTION_MIN_LOG_SEVERITY = 25
_LOG_ERROR = 2
_MAX_RANK = 8
_STDERR = 2
_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"


class LiteRTError(Exception):
    """LiteRT refused a call."""


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint32),
        ("dimensions", ctypes.c_int32 * _MAX_RANK),
        ("strides", ctypes.c_uint32 * _MAX_RANK),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element_type", ctypes.c_int32), ("layout", _Layout))


class _EnvironmentOption(ctypes.Structure):
    _fields_ = (("tag", ctypes.c_int64), ("kind", ctypes.c_int64), ("value", ctypes.c_int64))


def _library() -> ctypes.CDLL:
    path = Path(next(iter(ai_edge_litert.__path__))) / "libLiteRt.so"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise LiteRTError(f"LiteRT's library cannot be loaded from {path}: {error}") from error


class LiteRT:
    """One LiteRT environment with its CPU accelerator; closes what it made."""

    def __init__(self) -> None:
        self._lib = _library()
        self._payloads: list[ctypes.Array[ctypes.c_char]] = []
        self._no_op = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
        options = (_EnvironmentOption * 2)(
            _EnvironmentOption(_OPTION_ACCELERATORS, _ANY_INT, _CPU),
            _EnvironmentOption(_OPTION_MIN_LOG_SEVERITY, _ANY_INT, _LOG_ERROR),
        )
        self._environment = ctypes.c_void_p()
        self._call("LiteRtCreateEnvironment", ctypes.c_int(2), options, ctypes.byref(self._environment))

    @property
    def run_address(self) -> int:
        """Address of LiteRtRunCompiledModel(model, signature, n, inputs, m, outputs)."""
        return self._address("LiteRtRunCompiledModel")

    def load(self, path: Path, *, threads: int, weight_cache: Path) -> "Program":
        """Compiles a flatbuffer; packed weights are kept in the file `weight_cache` and mapped."""
        model = ctypes.c_void_p()
        self._call("LiteRtCreateModelFromFile", self._environment, str(path).encode(), ctypes.byref(model))
        options = self._cpu_options(threads, weight_cache)
        compiled = ctypes.c_void_p()
        with _without_noise():
            self._call("LiteRtCreateCompiledModel", self._environment, model, options, ctypes.byref(compiled))
        self._lib.LiteRtDestroyOptions(options)
        inputs, outputs = self._names(model, "Input"), self._names(model, "Output")
        return Program(self, model, compiled, inputs, outputs)

    def bind(self, memory: NDArray[np.float32], shape: tuple[int, ...]) -> int:
        """A tensor buffer over the first prod(shape) float32 of `memory`, which must outlive it."""
        kind = _TensorType(element_type=_FLOAT32)
        kind.layout.rank = len(shape)
        kind.layout.dimensions[: len(shape)] = shape
        size = 4 * int(np.prod(shape))
        if size > memory.nbytes or memory.ctypes.data % ALIGNMENT:
            raise LiteRTError(f"shape {shape} does not fit {memory.nbytes} bytes at {memory.ctypes.data:#x}")
        buffer = ctypes.c_void_p()
        address = ctypes.c_void_p(memory.ctypes.data)
        self._call(
            "LiteRtCreateTensorBufferFromHostMemory",
            ctypes.byref(kind), address, ctypes.c_size_t(size), None, ctypes.byref(buffer),
        )  # fmt: skip
        return buffer.value or 0

    def release(self, buffer: int) -> None:
        """Destroys a tensor buffer; its memory stays."""
        self._lib.LiteRtDestroyTensorBuffer(ctypes.c_void_p(buffer))

    def destroy(self, model: ctypes.c_void_p, compiled: ctypes.c_void_p) -> None:
        """Destroys what `load` made."""
        self._lib.LiteRtDestroyCompiledModel(compiled)
        self._lib.LiteRtDestroyModel(model)

    def close(self) -> None:
        """Destroys the environment; its programs and buffers are destroyed before."""
        self._lib.LiteRtDestroyEnvironment(self._environment)

    def _cpu_options(self, threads: int, weight_cache: Path) -> ctypes.c_void_p:
        options, cpu = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("LiteRtCreateOptions", ctypes.byref(options))
        self._call("LiteRtSetOptionsHardwareAccelerators", options, ctypes.c_int(_CPU))
        toml = f"num_threads = {threads}\nweight_cache_file_path = {json.dumps(str(weight_cache))}\n"
        payload = ctypes.create_string_buffer(toml.encode())
        self._payloads.append(payload)
        self._call("LiteRtCreateOpaqueOptions", b"xnnpack", payload, self._no_op, ctypes.byref(cpu))
        self._call("LiteRtAddOpaqueOptions", options, cpu)
        return options

    def _names(self, model: ctypes.c_void_p, kind: str) -> list[str]:
        signature, count, name = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_char_p()
        self._call("LiteRtGetModelSignature", model, ctypes.c_size_t(0), ctypes.byref(signature))
        self._call(f"LiteRtGetNumSignature{kind}s", signature, ctypes.byref(count))
        names = []
        for index in range(count.value):
            getter = f"LiteRtGetSignature{kind}Name"
            self._call(getter, signature, ctypes.c_size_t(index), ctypes.byref(name))
            names.append((name.value or b"").decode())
        return names

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._lib, name)(*arguments)
        if status != 0:
            raise LiteRTError(f"{name} failed with status {status}")

    def _address(self, name: str) -> int:
        return ctypes.cast(getattr(self._lib, name), ctypes.c_void_p).value or 0


class Program:
    """A compiled flatbuffer. Inputs and outputs go by name; their order is the file's own."""

    def __init__(
        self,
        litert: LiteRT,
        model: ctypes.c_void_p,
        compiled: ctypes.c_void_p,
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        self._litert = litert
        self._model = model
        self._compiled = compiled
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    @property
    def address(self) -> int:
        """The LiteRtCompiledModel."""
        return self._compiled.value or 0

    def close(self) -> None:
        """Destroys it."""
        self._litert.destroy(self._model, self._compiled)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keeps LiteRT's greeting out of the process's stderr; whatever else is written there meanwhile passes.

    The line comes from C++, below the log level that the environment is given, once in a process.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        stderr = os.dup(_STDERR)
        os.dup2(caught.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if line != _GREETING:
                    os.write(_STDERR, line)
