"""A loader of scripted runners that the test makes, with memory figures that the test sets."""

import threading
from collections.abc import Callable
from typing import Self

from tests.server.scripted_runner import WAIT_SECONDS, ScriptedRunner

from cadenza.server.config import Settings
from cadenza.server.repository import Artifact
from cadenza.server.runner.loading import OnCompile


class ScriptedLoader:
    """Implements RunnerLoader, and is the function that a Server makes it with."""

    def __init__(self, make: Callable[[Artifact], ScriptedRunner] = lambda _: ScriptedRunner()) -> None:
        self._make = make
        self.required = 0
        self.free = 0
        self.fail_with: Exception | None = None
        self._asked = threading.Semaphore(0)
        self._may_load = threading.Event()
        self._may_load.set()

    def hold(self) -> None:
        """No load ends until it is allowed to."""
        self._may_load.clear()

    def allow(self) -> None:
        """Lets loads end."""
        self._may_load.set()

    def wait_until_asked(self, times: int) -> None:
        """Blocks until it has been asked so often in all what is free."""
        for _ in range(times):
            if not self._asked.acquire(timeout=WAIT_SECONDS):
                raise TimeoutError(f"nobody has asked {times} times what is free")

    def __call__(self, settings: Settings, on_compile: OnCompile) -> Self:
        return self

    def load(self, artifact: Artifact) -> list[ScriptedRunner]:
        if self.fail_with is not None:
            raise self.fail_with
        if not self._may_load.wait(WAIT_SECONDS):
            raise TimeoutError("a held load was never allowed to end")
        return [self._make(artifact)]

    def required_bytes(self, artifact: Artifact) -> int:
        return self.required

    def free_bytes(self) -> int:
        self._asked.release()
        return self.free

    def precision(self, artifact: Artifact) -> str:
        return artifact.cpu_precision
