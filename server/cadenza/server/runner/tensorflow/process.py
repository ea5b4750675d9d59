"""A process of a device, seen from the server: started, talked to, ended.

TensorFlow gives back neither what XLA has compiled nor, on a GPU, memory it once had, before its process
ends. So every model on a device has a process of its own (worker.py), and unloading the model ends it. The
server's own process never imports TensorFlow.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Pipe
from typing import TypeVar

from cadenza.server.runner.base import RunnerError
from cadenza.server.runner.tensorflow.wire import Compiled, Load, Probe, Raised, pack, unpack

_WORKER = "cadenza.server.runner.tensorflow.worker"
_END_SECONDS = 10.0
"""How long a process may take to end once its pipe is closed; then it is killed."""
_SERVERS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They mean the server, also where the whole group gets them: it drains, and then ends the process."""

_T = TypeVar("_T")


class DeviceProcess:
    """Runs worker.py. Used by one thread at a time."""

    def __init__(
        self,
        first: Load | Probe,
        environment: Mapping[str, str],
        on_compile: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts the process, which inherits standard error; `environment` says which devices it sees.

        `first` is what it is to do. `on_compile` is called by whoever waits for an answer meanwhile.
        Raises OSError where it cannot be started.
        """
        self._on_compile = on_compile
        self._pipe, theirs = Pipe()
        with theirs, _blocked(_SERVERS_SIGNALS):
            command = [sys.executable, "-P", "-m", _WORKER, str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 a module of ours
                command,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
            )
        self._send(first)

    @property
    def pid(self) -> int:
        """The system's number of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, message: object, answer: type[_T]) -> _T:
        """Sends a message and waits for its answer. Raises what `wait` does."""
        self._send(message)
        return self.wait(answer)

    def wait(self, answer: type[_T]) -> _T:
        """Waits for an answer of this type.

        Raises what was raised in the process, and RunnerError where it has ended.
        """
        while True:
            message = self._receive()
            match message:
                case Compiled():
                    self._on_compile()
                case Raised():
                    raise message.error()
                case _ if isinstance(message, answer):
                    return message
                case _:
                    raise RunnerError(f"{self._name} answered with {type(message).__name__}")

    def close(self) -> None:
        """Ends the process and waits until it has: its memory is given back then."""
        self._pipe.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _name(self) -> str:
        return f"the device's process {self.pid}"

    def _send(self, message: object) -> None:
        try:
            self._pipe.send_bytes(pack(message))
        except OSError as error:
            raise self._ended() from error

    def _receive(self) -> object:
        try:
            data = self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        return unpack(data)

    def _ended(self) -> RunnerError:
        """The error that says how it ended."""
        self.close()
        code = self._process.returncode
        if code >= 0:
            return RunnerError(f"{self._name} ended by itself with exit code {code}; its log lines say why")
        name = signal.Signals(-code).name
        hint = "; the system does that where memory runs out" if -code == signal.SIGKILL else ""
        return RunnerError(f"{self._name} was ended by {name}{hint}")


@contextlib.contextmanager
def _blocked(numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """While inside, what is started never gets these signals: it inherits which are blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
