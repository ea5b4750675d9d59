"""The artifact's files: manifest, tokenizer, checksums; and that it appears whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from tests.export import tiny
from tests.export.conftest import Exported
from tokenizers import Tokenizer

from cadenza.export import TensorError
from cadenza.export.exporter import export
from cadenza.export.model import Precision
from cadenza.v1 import manifest_pb2

TEXT = "Def foxes(n): it's 12345 times\n\n\tnaïve 東京 🦊<|im_end|>"


def manifest(exported: Exported) -> manifest_pb2.ModelManifest:
    text = (exported.artifact / "assets.extra/manifest.json").read_text()
    return json_format.Parse(text, manifest_pb2.ModelManifest())


def test_manifest_describes_the_decoder_and_its_cpu_program(grouped_tied_int8: Exported) -> None:
    found = manifest(grouped_tied_int8)
    assert found.contract_version == 3
    assert found.producer.startswith("cadenza-export ")
    assert found.family == "llama"
    assert found.default_max_tokens == 256
    decoder = found.decoder
    assert (decoder.num_layers, decoder.hidden_size, decoder.num_heads, decoder.num_kv_heads) == (2, 64, 4, 2)
    assert (decoder.head_dim, decoder.vocabulary_size, decoder.max_context) == (16, 400, 128)
    assert decoder.attention_scale == 0.25
    np.testing.assert_allclose(
        decoder.rotary.inverse_frequencies, grouped_tied_int8.tiny.frequencies, rtol=1e-7
    )
    assert found.cpu.precision == manifest_pb2.PRECISION_INT8
    assert list(found.cpu.segments) == [f"segment_00{index}.tflite" for index in range(3)]


def test_parameter_count_counts_a_tied_head_once(
    grouped_tied_int8: Exported, separate_scaled_float32: Exported
) -> None:
    for exported in (grouped_tied_int8, separate_scaled_float32):
        assert manifest(exported).parameter_count == sum(array.size for array in exported.weights.values())


def test_manifest_names_bos_and_every_end_token(
    grouped_tied_int8: Exported, gguf_float32: Exported, separate_scaled_float32: Exported
) -> None:
    for exported in (grouped_tied_int8, gguf_float32, separate_scaled_float32):
        found = manifest(exported).tokenizer
        assert found.bos_token_id == 1
        assert list(found.eos_token_ids) == [0, 2]  # <|endoftext|>, and <|im_end|> of the template
        assert found.add_bos_token == (exported is separate_scaled_float32)


def test_tokenizer_of_a_folder_is_copied(grouped_tied_int8: Exported) -> None:
    copied = grouped_tied_int8.artifact / "assets.extra/tokenizer.json"
    assert copied.read_bytes() == (grouped_tied_int8.source / "tokenizer.json").read_bytes()


def test_tokenizer_built_from_gguf_equals_the_original(gguf_float32: Exported) -> None:
    built = Tokenizer.from_file(str(gguf_float32.artifact / "assets.extra/tokenizer.json"))
    ids = built.encode(TEXT).ids
    assert ids == tiny.tokenizer().encode(TEXT).ids
    assert built.decode(ids, skip_special_tokens=False) == TEXT
    assert built.decode(ids) == TEXT.removesuffix("<|im_end|>")


def test_chat_template_is_kept(grouped_tied_int8: Exported, gguf_float32: Exported) -> None:
    for exported in (grouped_tied_int8, gguf_float32):
        assert (exported.artifact / "assets.extra/chat_template.jinja").read_text() == tiny.TEMPLATE


def test_checksums_cover_every_other_file_and_verify(gguf_float32: Exported) -> None:
    root = gguf_float32.artifact
    listed = [line.split("  ")[1] for line in (root / "assets.extra/SHA256SUMS").read_text().splitlines()]
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert listed == sorted(files - {"assets.extra/SHA256SUMS"})
    command = ["sha256sum", "--check", "--strict", "--quiet", "assets.extra/SHA256SUMS"]
    assert subprocess.run(command, cwd=root, check=False).returncode == 0


def test_an_export_that_fails_midway_leaves_what_was_there(tmp_path: Path) -> None:
    sizes = tiny.Tiny(layers=1)
    weights = tiny.random_weights(sizes)
    weights["model.norm.weight"][3] = np.nan  # found last, when all else is written
    source = tiny.write_hugging_face(tmp_path / "source", sizes, weights)
    kept = tmp_path / "models/kept/1"
    kept.mkdir(parents=True)
    (kept / "file").write_text("as it was")
    for output in (kept, tmp_path / "models/new/1"):
        with pytest.raises(TensorError, match=r"model\.norm\.weight holds numbers that are not finite"):
            export(source, output, Precision.FLOAT32, overwrite=True)
    left = [path.relative_to(tmp_path / "models").as_posix() for path in (tmp_path / "models").rglob("*")]
    assert sorted(left) == ["kept", "kept/1", "kept/1/file"]


def test_command_writes_an_artifact_over_an_old_one_and_says_so_in_one_line(tmp_path: Path) -> None:
    sizes = tiny.Tiny(layers=1)
    source = tiny.write_gguf(tmp_path / "tiny.gguf", sizes, tiny.random_weights(sizes))
    output = tmp_path / "models/tiny/7"
    output.mkdir(parents=True)
    (output / "old").touch()
    command = [sys.executable, "-m", "cadenza.export", str(source), "--output", str(output), "--overwrite"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"wrote {output}: int8, ")
    assert json.loads((output / "assets.extra/manifest.json").read_text())["source"] == "tiny.gguf"
    assert [path.name for path in output.parent.iterdir()] == ["7"]
    assert not (output / "old").exists()
