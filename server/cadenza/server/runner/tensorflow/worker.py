"""`python -m cadenza.server.runner.tensorflow.worker FD`: the process of one device, for one model.

It does what the first message on the pipe says: tells which devices there are, or loads a model, warms it,
and answers steps. It ends with the pipe, so it never outlives the server, whatever ends that.
"""

import os
import select
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import structlog

from cadenza.server import logs
from cadenza.server.errors import StartupError
from cadenza.server.runner.base import Runner, RunnerError, StepBatch, StepResult
from cadenza.server.runner.devices import Backend
from cadenza.server.runner.tensorflow.wire import Compiled, Found, Load, Probe, Raised, Warm, pack, unpack
from cadenza.v1.manifest_pb2 import ModelManifest

_log = structlog.get_logger(__name__)


def main() -> None:
    """Serves the server at the other end of the pipe. Exits with 1 where something unforeseen is raised."""
    pipe: Connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(pipe.fileno(),), daemon=True).start()
    match unpack(pipe.recv_bytes()):
        case Probe() as probe:
            pipe.send_bytes(pack(_probe(probe)))
        case Load() as load:
            _run(pipe, load)


def _end_with(file_descriptor: int) -> None:
    """Ends the process at once when the pipe's other end is closed, whatever it does then.

    Nothing that it has is worth an orderly end, and a compilation can take minutes.
    """
    poll = select.poll()
    poll.register(file_descriptor, 0)  # POLLHUP comes unasked
    poll.poll()
    os._exit(0)


def _probe(probe: Probe) -> Found | Raised:
    from cadenza.server.runner.tensorflow.devices import best_accelerator, memory_limit, ready_devices

    try:
        backend = best_accelerator(probe.choice)
        if backend is None:
            return Found("", 0, 0)
        names = ready_devices(backend)
        return Found(backend.value, len(names), min(map(memory_limit, names)))
    except StartupError as error:
        return Raised.of(error)


def _run(pipe: Connection, load: Load) -> None:
    logs.configure(load.log_format, load.log_level)
    structlog.contextvars.bind_contextvars(model=load.model, version=load.version, device=load.device)
    try:
        runner = _loaded(load, on_compile=lambda: pipe.send_bytes(pack(Compiled())))
        if isinstance(runner, Raised):
            pipe.send_bytes(pack(runner))
        else:
            pipe.send_bytes(pack(Warm(runner.limits)))
            answer_steps(pipe, runner)
    except (EOFError, ConnectionError):
        return  # the server has gone
    except Exception as error:  # noqa: BLE001 the server sees the exit code, people the log
        _log.exception("device_process_failed", exc_info=error)
        sys.exit(1)


def _loaded(load: Load, on_compile: Callable[[], None]) -> Runner | Raised:
    """A warm runner, or what went wrong."""
    import tensorflow as tf

    from cadenza.server.runner.tensorflow.device_runner import load_runner
    from cadenza.server.runner.tensorflow.devices import ready_devices

    manifest = ModelManifest.FromString(load.manifest)
    try:
        device = ready_devices(Backend(load.backend))[0]
        runner = load_runner(Path(load.path), manifest, load.options, device, on_compile=on_compile)
        runner.warm_up()
    except (RunnerError, StartupError, ValueError, OSError, tf.errors.OpError) as error:
        return Raised.of(error)
    return runner


def answer_steps(pipe: Connection, runner: Runner) -> NoReturn:
    """Answers one batch after the other. Raises EOFError when the pipe ends."""
    while True:
        batch = unpack(pipe.recv_bytes())
        pipe.send_bytes(pack(_answer(runner, batch)))


def _answer(runner: Runner, batch: StepBatch) -> StepResult | Raised:
    try:
        return runner.step(batch)
    except (RunnerError, ValueError) as error:
        return Raised.of(error)


if __name__ == "__main__":
    main()
