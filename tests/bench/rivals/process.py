"""An engine's process as the benchmark sees it: tasks in, answers out, halted while others are measured."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from deploy.demo.models import ROOT
from tests.bench.rivals.driver import Completion, TokenIds

_LAST_LINES = 3


class EngineError(Exception):
    """An engine did not start, failed or was silent for too long; the message says what it said last."""


class EngineProcess:
    """A driver in a process group of its own, which is stopped by signal while it has nothing to do.

    Engines leave threads behind that spin for a while, or for ever; a halted process takes no core from
    the one that is measured, and keeps its memory.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        with log.open("w", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
                env=os.environ | environment,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def wait_loaded(self, timeout: float) -> float:
        """Waits for the engine; returns the seconds that loading took. Raises EngineError."""
        return float(self._next(timeout)["load_seconds"])

    def complete(
        self, prompts: Sequence[TokenIds], new_tokens: int, *, timeout: float
    ) -> Sequence[Completion]:
        """Has all prompts completed at once. Raises EngineError, also where tokens are missing."""
        answer = self._ask({"task": "complete", "prompts": prompts, "new_tokens": new_tokens}, timeout)
        completions = [Completion(**one) for one in answer["completions"]]
        found = [len(completion.times) for completion in completions]
        if found != [new_tokens] * len(prompts):
            raise EngineError(f"{len(prompts)} times {new_tokens} tokens were asked for; {found} came")
        return completions

    def mean_nll(self, token_ids: TokenIds, *, timeout: float) -> float:
        """The mean negative log-likelihood of the tokens but the first, in nats. Raises EngineError."""
        logprobs = self._ask({"task": "score", "token_ids": token_ids}, timeout)["logprobs"]
        if len(logprobs) != len(token_ids) - 1:
            raise EngineError(f"{len(token_ids)} tokens were to be judged; {len(logprobs)} values came")
        return -float(sum(logprobs)) / len(logprobs)

    def peak_bytes(self) -> int:
        """The most memory that was resident (VmHWM), of all processes of its group; mapped files count."""
        return sum(_peak_bytes(folder) for folder in Path("/proc").glob("[0-9]*") if self._has(folder))

    def halt(self) -> None:
        """Stops all its threads where they are."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets a halted process run again."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends the process and whatever it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _ask(self, task: dict[str, Any], timeout: float) -> dict[str, Any]:
        if self._process.stdin is None:
            raise EngineError("the process has no stdin")
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EngineError(f"it ended: {self._last_words()}") from None
        return self._next(timeout)

    def _next(self, timeout: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise EngineError(f"no answer within {timeout:g} s: {self._last_words()}") from None
        if not line:
            raise EngineError(f"it ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def _read(self, answers: TextIO) -> None:
        for line in answers:
            self._answers.put(line)
        self._answers.put("")

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join([line.strip() for line in lines if line.strip()][-_LAST_LINES:])

    def _has(self, folder: Path) -> bool:
        try:
            return os.getpgid(int(folder.name)) == self._process.pid
        except ProcessLookupError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _peak_bytes(folder: Path) -> int:
    """Of one process; 0 where it has just ended."""
    try:
        lines = (folder / "status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
