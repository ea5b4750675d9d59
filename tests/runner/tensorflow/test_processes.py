"""What is of a whole process: its devices, what XLA really compiles, and its memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def run(code: str, *arguments: object, **environment: str) -> Any:
    """What a process prints as its last line, which is JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    paths = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, env={**os.environ, **paths, **environment}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


COMPILATIONS = """
import json, sys
from pathlib import Path
from tests.runner.conformance import some_samplings
from tests.runner.driver import Job, complete
from tests.runner.tensorflow.exported import load

compiled = []
runner = load(Path(sys.argv[1]), on_compile=lambda: compiled.append(1))
runner.warm_up()
warm = len(compiled)
jobs = [Job(range(1, 2 + 7 * index), sampling, prompt_alternatives=2 if index % 2 else None)
        for index, sampling in enumerate(some_samplings())]
for chunk in (1, 5, 64):
    complete(runner, jobs, chunk=chunk)
print(json.dumps([warm, len(compiled)]))
"""


def test_every_shape_is_compiled_once_in_warm_up_and_none_under_load(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    """XLA itself says how much it compiled: it leaves a file of each."""
    flags = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*counted.*"
    warm, loaded = run(COMPILATIONS, tiny_artifact, XLA_FLAGS=flags)
    files = list(tmp_path.glob("*before_optimizations.txt"))
    assert warm == loaded == len(files) > 10
    assert [path.name for path in files if "<=" in path.read_text()] == []


LOGICAL_DEVICES = """
import json, sys
from pathlib import Path
import tensorflow as tf

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cadenza.server.config import Settings
from cadenza.server.repository import ModelVersion, load_artifact
from cadenza.server.runner.devices import Backend
from cadenza.server.runner.tensorflow.loader import TensorFlowLoader
from tests.runner.driver import Job, complete

path = Path(sys.argv[1])
settings = Settings(model=(f"tiny={path}",), kv_cache_gib=0.01, max_sequences=2, max_step_tokens=16)
compiled = []
loader = TensorFlowLoader(settings, Backend.TENSORFLOW_CPU, compiled.append)
artifact = load_artifact(ModelVersion("tiny", 1, path))
assert 0 < loader.required_bytes(artifact) < loader.free_bytes()
runners = loader.load(artifact)
answers = [complete(runner, [Job([5, 6, 7]), Job([9])]) for runner in runners]
def devices(runner):
    calls = runner._programs._advance.values()
    return sorted({variable.device for one in calls for variable in one.variables})

places = [devices(runner) for runner in runners]
for runner in runners:
    runner.close()
print(json.dumps([len(runners), answers[0] == answers[1], places, sorted(set(compiled))]))
"""


def test_each_device_has_a_runner_with_weights_and_cache_of_its_own(tiny_artifact: Path) -> None:
    count, equal, places, compiled = run(LOGICAL_DEVICES, tiny_artifact)
    assert (count, equal, compiled) == (2, True, ["tiny"])
    assert [[place[-5:] for place in found] for found in places] == [["CPU:0"], ["CPU:1"]]


ABSENT = """
import json
from cadenza.server.errors import StartupError
from cadenza.server.runner.devices import choose_backend
try:
    choose_backend("tpu", "auto")
except StartupError as error:
    print(json.dumps(str(error)))
"""


def test_a_device_that_tensorflow_does_not_find_is_refused_with_what_it_finds() -> None:
    message = run(ABSENT, CUDA_VISIBLE_DEVICES="-1")
    assert message.startswith("--device tpu: TensorFlow 2.")
    assert "/physical_device:CPU:0" in message


MEMORY = """
import json, sys
from pathlib import Path
from cadenza.server.freeing import free_unused_memory
from tests.runner.driver import Job, complete
from tests.runner.tensorflow.exported import load

def resident_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) << 10

levels = []
for _ in range(4):
    runner = load(Path(sys.argv[1]), kv_cache_bytes=256 << 20, max_step_tokens=16, max_sequences=2)
    complete(runner, [Job([5, 6, 7])])
    used = resident_bytes()
    runner.close()
    del runner
    free_unused_memory()
    levels.append([used, resident_bytes()])
print(json.dumps(levels))
"""


def test_what_is_loaded_and_closed_gives_its_memory_back(tiny_artifact: Path) -> None:
    """The cache is 256 MiB: kept once, it would show."""
    levels = run(MEMORY, tiny_artifact)
    (first_used, first_left), (last_used, last_left) = levels[0], levels[-1]
    assert last_left < 1.1 * first_left
    assert last_used < 1.1 * first_used
