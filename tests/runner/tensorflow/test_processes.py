"""What is of a whole process: its devices, and what XLA really compiles."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(900)


def run(code: str, *arguments: object, **environment: str) -> Any:
    """What a process prints as its last line, which is JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    paths = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, env={**os.environ, **paths, **environment}, capture_output=True, text=True, timeout=600
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


ABSENT = """
import json
from cadenza.server.errors import StartupError
from cadenza.server.runner.devices import choose_devices
try:
    choose_devices("tpu", "auto")
except StartupError as error:
    print(json.dumps(str(error)))
"""


def test_a_device_that_tensorflow_does_not_find_is_refused_with_what_it_finds() -> None:
    message = run(ABSENT, CUDA_VISIBLE_DEVICES="-1")
    assert message.startswith("--device tpu: TensorFlow 2.")
    assert "/physical_device:CPU:0" in message
