"""The SavedModel in an environment that holds TensorFlow and nothing of ours: strings in, completions out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.packaging.test_wheel import ROOT, run_uv
from tests.real.checks import Reference

pytestmark = pytest.mark.real_model

PROGRAM = """
import importlib.util, json, sys
for name in ("cadenza", "tokenizers", "tensorflow_text", "transformers", "ai_edge_litert"):
    assert importlib.util.find_spec(name) is None, name
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
prompts = json.loads(sys.argv[2])
size = len(prompts)
found = model.signatures["complete"](
    prompt=tf.constant(prompts), max_tokens=tf.fill([size], 64), temperature=tf.zeros([size]),
    top_k=tf.zeros([size], tf.int32), top_p=tf.ones([size]), seed=tf.zeros([size], tf.int64))
ids = [row[:count].tolist() for row, count in zip(found["token_ids"].numpy(), found["token_count"].numpy())]
texts = [text.decode() for text in found["completion"].numpy()]
print(json.dumps({"ids": ids, "texts": texts}))
"""


@pytest.fixture(scope="module")
def bare_venv() -> Path:
    """TensorFlow in the locked version and what it needs itself; kept for the next run, made in a minute."""
    venv = ROOT / ".cache" / "tensorflow-venv"
    lock = ROOT / "requirements.lock"
    stamp = venv / "lock.txt"
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        run_uv("venv", "--clear", "--quiet", "--python", sys.executable, venv)
        constraints = venv / "constraints.txt"
        pinned = [line.rstrip("\\ ") for line in lock.read_text().splitlines() if line[:1].isalnum()]
        constraints.write_text("\n".join(pinned))
        python = venv / "bin" / "python"
        run_uv("pip", "install", "--quiet", "--python", python, "--constraint", constraints, "tensorflow")
        stamp.write_bytes(lock.read_bytes())
    return venv


def run(venv: Path, program: str, *arguments: str) -> str:
    command = [str(venv / "bin" / program), *arguments]
    done = subprocess.run(command, cwd=venv, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_completions_are_the_oracles_with_nothing_but_tensorflow(
    bare_venv: Path, real_float32: Path, reference: Reference
) -> None:
    cases = [case for case in reference.greedy if case.text is not None and len(case.prompt) < 64]
    prompts = json.dumps([case.text for case in cases])
    answer = json.loads(run(bare_venv, "python", "-I", "-c", PROGRAM, str(real_float32), prompts))
    assert len(cases) >= 8
    for case, ids in zip(cases, answer["ids"], strict=True):
        assert ids == list(case.completion[: len(ids)]), case.name
    assert all(answer["texts"])


def test_saved_model_cli_completes_strings(bare_venv: Path, real_float32: Path) -> None:
    model = ("--dir", str(real_float32), "--tag_set", "serve", "--signature_def", "complete")
    shown = run(bare_venv, "saved_model_cli", "show", *model)
    assert "inputs['prompt'] tensor_info" in shown
    values = (
        "prompt=['The quick brown fox','def fibonacci(n):'];max_tokens=[6,14];"
        "temperature=[0.0,0.0];top_k=[0,0];top_p=[1.0,1.0];seed=[0,0]"
    )
    answer = run(bare_venv, "saved_model_cli", "run", *model, "--input_exprs", values)
    assert "with a quick brown bear." in answer
    assert "if n == 0" in answer
