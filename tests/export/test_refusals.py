"""What cannot be exported exactly is refused by name in one line, exit code 1, nothing left behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.export import tiny

from cadenza.export.__main__ import main

SIZES = tiny.Tiny(layers=1)


@pytest.fixture
def refuse(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command on a source and gives the line it is refused with."""

    def run(source: Path, output: str = "tiny/1") -> str:
        before = sorted(tmp_path.rglob("*"))
        code = main([str(source), "--output", str(tmp_path / "models" / output)])
        stdout, stderr = capfd.readouterr()
        assert (code, stdout) == (1, "")
        assert sorted(tmp_path.rglob("*")) == before
        (line,) = stderr.splitlines()
        assert line.startswith("cadenza-export: ")
        return line

    return run


def folder(path: Path, *, config: dict[str, Any] | None = None, weights: tiny.Weights | None = None) -> Path:
    weights = tiny.random_weights(SIZES) if weights is None else weights
    return tiny.write_hugging_face(path / "source", SIZES, weights, config=config)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("architectures", ["MambaForCausalLM"]),
        ("architectures", None),
        ("hidden_act", "gelu"),
        ("attention_bias", "yes"),
        ("mlp_bias", 1),
        ("sliding_window", 64),
        ("quantization_config", {"bits": 4}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("rope_scaling", {"type": "dynamic", "factor": 4.0}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("hidden_size", 10**9),
        ("hidden_size", 0),
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", True),
        ("num_attention_heads", "4"),
        ("num_key_value_heads", 3),
        ("head_dim", 15),
        ("vocab_size", 2**40),
        ("max_position_embeddings", None),
        ("rms_norm_eps", -1e-5),
        ("rope_theta", 0),
    ],
)
def test_setting_of_a_folder_is_refused_by_name(
    refuse: Callable[..., str], tmp_path: Path, setting: str, value: object
) -> None:
    assert setting in refuse(folder(tmp_path, config={setting: value}))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("general.architecture", "mamba"),
        ("llama.attention.clamp_kqv", 8.0),
        ("llama.expert_count", 8),
        ("llama.rope.scaling.type", "yarn"),
        ("llama.rope.dimension_count", 8),
        ("llama.attention.layer_norm_rms_epsilon", None),
        ("llama.attention.head_count", [4, 4]),
        ("llama.block_count", 2**31),
        ("tokenizer.ggml.model", "llama"),
        ("tokenizer.ggml.pre", "falcon"),
        ("tokenizer.ggml.add_eos_token", True),
        ("tokenizer.ggml.merges", ["x yz"]),
        ("tokenizer.ggml.token_type", [1, 2]),
        ("tokenizer.ggml.tokens", None),
    ],
)
def test_setting_of_a_gguf_file_is_refused_by_name(
    refuse: Callable[..., str], tmp_path: Path, setting: str, value: object
) -> None:
    weights = tiny.random_weights(SIZES)
    source = tiny.write_gguf(tmp_path / "tiny.gguf", SIZES, weights, settings={setting: value})
    assert setting in refuse(source)


def test_bos_token_beyond_the_tokens_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    settings = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 300}
    source = tiny.write_gguf(tmp_path / "tiny.gguf", SIZES, tiny.random_weights(SIZES), settings=settings)
    assert "tokenizer.ggml.bos_token_id is 300; there are 300 tokens" in refuse(source)


def test_missing_tensor_is_named_with_its_shape(refuse: Callable[..., str], tmp_path: Path) -> None:
    weights = tiny.random_weights(SIZES)
    del weights["model.layers.0.mlp.up_proj.weight"]
    line = refuse(folder(tmp_path, weights=weights))
    assert "tensor model.layers.0.mlp.up_proj.weight is missing; expected it with shape [96, 64]" in line


def test_unexpected_tensor_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    weights = tiny.random_weights(SIZES) | {"model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)}
    line = refuse(folder(tmp_path, weights=weights))
    assert "tensor model.layers.0.self_attn.q_proj.bias with shape [64] is unexpected" in line


def test_tensor_of_the_wrong_shape_is_named_with_both_shapes(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    weights = tiny.random_weights(SIZES)
    weights["model.layers.0.mlp.down_proj.weight"] = np.zeros([96, 64], np.float32)
    line = refuse(folder(tmp_path, weights=weights))
    assert "tensor model.layers.0.mlp.down_proj.weight has shape [96, 64]; expected [64, 96]" in line


def test_tensor_in_an_unknown_number_format_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    weights = tiny.random_weights(SIZES)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].astype(
        ml_dtypes.float8_e4m3fn
    )
    line = refuse(folder(tmp_path, weights=weights))
    assert "tensor model.embed_tokens.weight has the number format F8_E4M3" in line


def test_tied_head_that_differs_from_the_embedding_is_refused(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    weights = tiny.random_weights(SIZES)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    line = refuse(folder(tmp_path, weights=weights))
    assert "tensor lm_head.weight differs from model.embed_tokens.weight" in line


@pytest.mark.parametrize("cut", [0, 100, 5_000, 150_000])
def test_gguf_file_that_is_cut_off_is_refused(refuse: Callable[..., str], tmp_path: Path, cut: int) -> None:
    source = tiny.write_gguf(tmp_path / "tiny.gguf", SIZES, tiny.random_weights(SIZES))
    source.write_bytes(source.read_bytes()[:cut])
    assert "no readable GGUF file, or is cut off" in refuse(source)


@pytest.mark.parametrize("cut", [0, 4, 1_000, 150_000])
def test_safetensors_file_that_is_cut_off_is_refused(
    refuse: Callable[..., str], tmp_path: Path, cut: int
) -> None:
    source = folder(tmp_path)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    assert "no readable safetensors file, or is cut off" in refuse(source)


def test_shard_outside_the_folder_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    source = folder(tmp_path)
    (source / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "'../model.safetensors'" in refuse(source)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_of_a_folder_is_named(refuse: Callable[..., str], tmp_path: Path, name: str) -> None:
    source = folder(tmp_path)
    (source / name).unlink()
    assert name in refuse(source)


@pytest.mark.parametrize("text", ["", "[]", "{", "\ufeff{}", "[" * 100_000])
def test_damaged_config_is_named(refuse: Callable[..., str], tmp_path: Path, text: str) -> None:
    source = folder(tmp_path)
    (source / "config.json").write_text(text)
    assert "config.json" in refuse(source)


@pytest.mark.parametrize(
    ("part", "value"),
    [("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": True}), ("decoder", None)],
)
def test_tokenizer_that_is_not_byte_level_is_refused(
    refuse: Callable[..., str], tmp_path: Path, part: str, value: object
) -> None:
    source = folder(tmp_path)
    description = json.loads((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").write_text(json.dumps(description | {part: value}))
    assert "only byte-level BPE" in refuse(source)


def test_tokenizer_larger_than_the_vocabulary_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    small = tiny.Tiny(layers=1, vocabulary=299)
    source = tiny.write_hugging_face(tmp_path / "source", small, tiny.random_weights(small))
    assert "token id 299" in refuse(source)


def test_source_that_does_not_exist_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    assert "does not exist" in refuse(tmp_path / "nothing")


@pytest.mark.parametrize("output", ["tiny/latest", "tiny/0", "tiny/01", "tiny/-1", "tiny/²"])
def test_output_that_is_no_version_is_refused(
    refuse: Callable[..., str], tmp_path: Path, output: str
) -> None:
    assert "must end in a version number" in refuse(folder(tmp_path), output)


def test_existing_output_is_refused_without_overwrite(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "models/tiny/1").mkdir(parents=True)
    assert "--overwrite" in refuse(folder(tmp_path))


def test_wrong_usage_exits_with_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path), "--output", str(tmp_path / "1"), "--precision", "int4"])
    assert exit_.value.code == 2
    assert "--precision" in capfd.readouterr().err
