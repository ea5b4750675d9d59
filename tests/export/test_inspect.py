"""`cadenza-export inspect`: what it says of artifacts and sources, without reading or allocating weights."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.export import tiny
from tests.export.conftest import Exported
from tests.memory import run

from cadenza.export.__main__ import main

MOST_RESIDENT = 1_500_000_000
"""Bytes, TensorFlow's own half a gigabyte included; the weights below would be 700 GB."""
GPT3: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_embd": 12288,
    "n_head": 96,
    "n_layer": 96,
    "n_positions": 2048,
    "vocab_size": 50257,
}


def said(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, str]:
    """The rows of all tables by their first cells."""
    assert main(["inspect", *map(str, arguments)]) == 0
    lines = capfd.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    return {row[0]: " | ".join(row[1:]) for row in rows}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def test_artifact_is_described_by_its_manifest_and_graph(
    grouped_tied_int8: Exported, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = said(capfd, grouped_tied_int8.artifact, "--sequences", "3", "--length", "100")
    assert rows["family"] == "llama"
    assert (rows["layers"], rows["hidden size"], rows["MLP size"]) == ("2", "64", "96")
    assert rows["heads"] == "4, 2 for keys and values, of size 16"
    assert (rows["vocabulary"], rows["context"]) == ("400", "128 tokens")
    assert rows["parameters"] == f"{sum(array.size for array in grouped_tied_int8.weights.values()):,}"
    assert rows["precision"] == "int8"
    assert rows["logits"] == "token_ids: int32 [?, ?] | logits: float32 [?, ?, 400]"
    program = sum(file.stat().st_size for file in (grouped_tied_int8.artifact / "assets.extra/cpu").iterdir())
    per_token = 2 * 2 * 2 * 16 * 2  # keys and values, layers, heads, sizes, bytes of a bfloat16
    assert rows["weights served as int8"] == f"{program / 1e3:.1f} kB; KV cache {per_token} B per token"
    assert rows["3"] == f"100 | {(program + 300 * per_token) / 1e3:.1f} kB"
    size = (grouped_tied_int8.artifact / "saved_model.pb").stat().st_size
    assert rows["saved_model.pb"] == f"{size:,}"


def test_float32_artifact_keeps_float32_keys_and_values(
    gguf_float32: Exported, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = said(capfd, gguf_float32.artifact)
    assert rows["weights served as float32"].endswith("KV cache 512 B per token")


def test_artifact_of_another_contract_is_refused(
    grouped_tied_int8: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    extra = tmp_path / "1/assets.extra"
    extra.mkdir(parents=True)
    manifest = extra / "manifest.json"
    shutil.copy(grouped_tied_int8.artifact / "assets.extra/manifest.json", manifest)
    known = json.loads(manifest.read_text())
    for change, message in (
        ({"contract_version": 99}, "contract_version 99"),
        ({"more": 1}, "no manifest that this release knows"),
        ({}, "saved_model.pb cannot be read"),
    ):
        manifest.write_text(json.dumps(known | change))
        assert main(["inspect", str(tmp_path / "1")]) == 1
        stdout, stderr = capfd.readouterr()
        (line,) = stderr.splitlines()
        assert message in line
        assert stdout == ""


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_source_is_described_and_its_shapes_are_traced(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    sizes = tiny.Tiny()
    weights = tiny.random_weights(sizes)
    if kind == "folder":
        source = tiny.write_hugging_face(tmp_path / "source", sizes, weights)
    else:
        source = tiny.write_gguf(tmp_path / "tiny.gguf", sizes, weights)
    rows = said(capfd, source)
    assert rows["family"] == "llama"
    assert rows["parameters"] == f"{sum(array.size for array in weights.values()):,}"
    assert rows["logits"] == "float32 [?, ?, 400]: shapes fit together"
    assert rows["can be exported"] == "yes"


def test_length_beyond_the_context_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = tiny.Tiny(layers=1)
    source = tiny.write_hugging_face(tmp_path / "source", sizes, tiny.random_weights(sizes))
    assert main(["inspect", str(source), "--length", "129"]) == 1
    assert "--length 129 is beyond the context of 128 tokens" in capfd.readouterr().err


@pytest.mark.parametrize("given", ["0", "-1", "x", "1" * 30])
def test_sequences_that_are_no_number_are_wrong_usage(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], given: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", str(tmp_path), "--sequences", given])
    assert exit_.value.code == 2
    assert "--sequences" in capfd.readouterr().err


def test_gpt3_is_inspected_by_its_config_alone_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT3))
    command = [sys.executable, "-m", "cadenza.export", "inspect", str(tmp_path)]
    used = run(command)
    assert used.status == 0
    assert used.peak < MOST_RESIDENT
    d, layers = 12288, 96
    attention, mlp, norms = 4 * d * d + 4 * d, 8 * d * d + 5 * d, 4 * d
    parameters = (50257 + 2048) * d + layers * (attention + mlp + norms) + 2 * d
    assert f"{parameters:,}" == "174,604,259,328"
    assert f"{parameters:,}" in used.printed
    assert "float32 [?, ?, 50257]: shapes fit together" in used.printed


def test_help_names_all_commands(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    printed = capfd.readouterr().out
    assert "cadenza-export verify PATH" in printed
    assert "cadenza-export inspect PATH" in printed
