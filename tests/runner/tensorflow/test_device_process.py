"""A device's process: what it does is the runner's, and how it ends is always known."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.runner.driver import Job, complete
from tests.runner.tensorflow.processes import start

from cadenza.server.config import Settings
from cadenza.server.engine.request import GREEDY
from cadenza.server.errors import StartupError
from cadenza.server.repository import Artifact, ModelVersion, load_artifact
from cadenza.server.runner.base import Runner, RunnerError, SequenceSlice, StepBatch, StepResult
from cadenza.server.runner.devices import Backend, Devices
from cadenza.server.runner.tensorflow.discovery import environment_of
from cadenza.server.runner.tensorflow.loader import TensorFlowLoader
from cadenza.server.runner.tensorflow.process import DeviceProcess
from cadenza.server.runner.tensorflow.wire import Warm

ROOT = Path(__file__).parents[3]
WAIT_SECONDS = 100
pytestmark = pytest.mark.timeout(600)
JOBS = [Job([5, 6, 7])]
BATCH = StepBatch([SequenceSlice([5], 0, [0], GREEDY)])


def loader(count: int, compiled: list[str], kv_cache_gib: float = 0.001) -> TensorFlowLoader:
    """On so many devices, all of them this machine's CPU."""
    settings = Settings(
        model=("tiny=/nowhere",),
        kv_cache_gib=kv_cache_gib,
        max_sequences=1,
        max_step_tokens=16,
        log_level="warning",
    )
    return TensorFlowLoader(settings, Devices(Backend.TENSORFLOW_CPU, count), compiled.append)


@pytest.fixture(scope="module")
def artifact(tiny_artifact: Path) -> Artifact:
    return load_artifact(ModelVersion("tiny", 1, tiny_artifact))


@pytest.fixture(scope="module")
def compiled() -> list[str]:
    """The model's name for every program that was compiled for `pair`."""
    return []


@pytest.fixture(scope="module")
def pair(artifact: Artifact, compiled: list[str]) -> Iterator[Sequence[Runner]]:
    """Runners of the same model on two devices."""
    runners = loader(2, compiled).load(artifact)
    yield runners
    for runner in runners:
        runner.close()


@pytest.fixture
def process(tiny_artifact: Path) -> Iterator[DeviceProcess]:
    """It has begun to load."""
    with closing(start(tiny_artifact)) as process:
        yield process


def test_each_device_has_a_process_and_a_runner_of_its_own(
    pair: Sequence[Runner], compiled: list[str]
) -> None:
    assert complete(pair[0], JOBS) == complete(pair[1], JOBS)
    assert set(compiled) == {"tiny"}
    assert len(compiled) % 2 == 0


def test_the_memory_of_all_processes_is_required(artifact: Artifact) -> None:
    two = loader(2, [])
    assert 0 < two.required_bytes(artifact) < two.free_bytes()
    assert two.required_bytes(artifact) == 2 * loader(1, []).required_bytes(artifact)


def test_a_batch_that_no_model_could_answer_is_refused_with_the_runners_own_words(
    pair: Sequence[Runner],
) -> None:
    with pytest.raises(ValueError, match=r"a slice of tokens 400 to 400: token ids lie in 0\.\.399"):
        pair[0].step(StepBatch([SequenceSlice([400], 0, [0], GREEDY)]))
    assert complete(pair[0], JOBS) == complete(pair[1], JOBS)


def test_a_model_that_finds_no_room_is_refused_with_the_reason(artifact: Artifact) -> None:
    with pytest.raises(StartupError, match=r"^model tiny in .* does not load: no memory is left for a KV"):
        loader(1, [], kv_cache_gib=1e-9).load(artifact)


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGKILL, "SIGKILL; .* memory runs out"), (signal.SIGABRT, "SIGABRT")]
)
def test_after_its_death_every_answer_is_what_killed_it(
    process: DeviceProcess, number: signal.Signals, how: str
) -> None:
    os.kill(process.pid, number)
    with pytest.raises(RunnerError, match=f"process {process.pid} was ended by {how}$"):
        process.wait(Warm)
    with pytest.raises(RunnerError, match=f"process {process.pid} was ended by {how}$"):
        process.ask(BATCH, StepResult)


def test_signals_that_mean_the_server_do_not_end_it(process: DeviceProcess) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    (pending,) = [line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd:")]
    assert int(pending, 16) == sum(1 << (number - 1) for number in (1, 2, 15))
    assert process.is_alive


def test_a_closed_one_has_ended(process: DeviceProcess) -> None:
    assert process.is_alive
    process.close()
    assert not Path(f"/proc/{process.pid}").exists()


CHILDLESS = """
import sys, time
from pathlib import Path
from tests.runner.tensorflow.processes import start
print(start(Path(sys.argv[1])).pid, flush=True)
time.sleep(60)
"""


def test_it_ends_when_what_started_it_is_killed_while_it_loads(tiny_artifact: Path) -> None:
    command = [sys.executable, "-c", CHILDLESS, str(tiny_artifact)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert ends(pid)


def ends(pid: int) -> bool:
    """Whether a process that is nobody's child here ends."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], WAIT_SECONDS)[0])
    finally:
        os.close(descriptor)


def test_a_process_sees_its_own_device_alone() -> None:
    gpus, tpus = Devices(Backend.TENSORFLOW_GPU, 2), Devices(Backend.TENSORFLOW_TPU, 4)
    assert environment_of(gpus, 1, {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert environment_of(gpus, 1, {"CUDA_VISIBLE_DEVICES": "3,GPU-8f"}) == {"CUDA_VISIBLE_DEVICES": "GPU-8f"}
    assert environment_of(tpus, 3, {})["TPU_VISIBLE_DEVICES"] == "3"
    assert environment_of(Devices(Backend.TENSORFLOW_TPU), 0, {}) == {}
    assert environment_of(Devices(Backend.TENSORFLOW_CPU), 0, {}) == {"CUDA_VISIBLE_DEVICES": "-1"}
