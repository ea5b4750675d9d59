"""Each family refuses by name what it cannot export exactly, and weights that contradict its settings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.families.cases import write
from tests.families.catalogue import CASES

from cadenza.export import ExportError
from cadenza.export.exporter import open_source

BY_NAME = {case.name: case for case in CASES}


def refusal(folder: Path, name: str, **settings: Any) -> str:
    """The message that a folder is refused with, whose settings no longer fit its weights."""
    case = BY_NAME[name]
    source = write(case, folder / "source")
    (source / "config.json").write_text(json.dumps(dict(case.config) | settings))
    with pytest.raises(ExportError) as error:
        open_source(source)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("gpt2", "scale_attn_weights", False),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "activation_function", "relu"),
        ("gpt2", "quantization_config", {"bits": 8}),
        ("gpt_neox parallel", "hidden_act", "relu"),
        ("gpt_neox parallel", "use_parallel_residual", "no"),
        ("gpt_neox parallel", "rope_parameters", {"rope_type": "longrope", "partial_rotary_factor": 0.25}),
        ("llama grouped, tied", "rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
        ("mistral with a window, older", "sliding_window", 0),
        ("mistral with a window, older", "hidden_act", "gelu"),
        ("qwen2 tied, older", "use_sliding_window", True),
        ("qwen2 untied, odd heads", "layer_types", ["full_attention", "sliding_attention"]),
        ("qwen3 tied, own head size", "use_sliding_window", True),
        ("qwen3 tied, own head size", "rope_scaling", {"type": "dynamic", "factor": 2.0}),
    ],
)
def test_setting_is_refused_by_name(name: str, setting: str, value: Any, tmp_path: Path) -> None:
    assert setting in refusal(tmp_path, name, **{setting: value})


@pytest.mark.parametrize(
    ("name", "setting", "value", "tensor", "shapes"),
    [
        ("gpt2", "n_inner", 128, "transformer.h.0.mlp.c_fc.weight", "[64, 256]; expected [64, 128]"),
        ("gpt2", "n_positions", 128, "transformer.wpe.weight", "[160, 64]; expected [128, 64]"),
        ("gpt_neox parallel", "vocab_size", 301, "gpt_neox.embed_in.weight", "[300, 64]; expected [301, 64]"),
        (
            "llama grouped, tied",
            "num_key_value_heads",
            4,
            "model.layers.0.self_attn.k_proj.weight",
            "[32, 64]; expected [64, 64]",
        ),
        (
            "qwen3 tied, own head size",
            "head_dim",
            16,
            "model.layers.0.self_attn.q_proj.weight",
            "[128, 64]; expected [64, 64]",
        ),
    ],
)
def test_settings_that_contradict_the_weights_are_refused_with_both_shapes(
    name: str, setting: str, value: Any, tensor: str, shapes: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, name, **{setting: value})
    assert message == f"tensor {tensor} has shape {shapes}"


@pytest.mark.parametrize(
    ("name", "settings", "tensors"),
    [
        ("gpt_neox parallel", {"attention_bias": False}, r"attention\.(query_key_value|dense)\.bias"),
        (
            "llama biases, linear scaling, own head size",
            {"mlp_bias": False},
            r"mlp\.(gate|up|down)_proj\.bias",
        ),
        ("qwen3 biases, older", {"attention_bias": False}, r"self_attn\.[qkvo]_proj\.bias"),
    ],
)
def test_weights_that_the_settings_do_not_know_are_refused(
    name: str, settings: dict[str, Any], tensors: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, name, **settings)
    assert re.match(rf"tensor \S+\.{tensors} with shape \[\d+(, \d+)?\] is unexpected", message)
