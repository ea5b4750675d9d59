"""The catalogue's models as GGUF files, laid out and named as llama.cpp's converter does it."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tests.export.tiny import SPECIAL_TOKENS, tokenizer
from tests.families.cases import Case, Float32

ARCHITECTURES = {
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gptneox",
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def write_gguf(case: Case, path: Path, **settings: Any) -> Path:
    """Writes the model; `settings` adds metadata of the family by its name without prefix, '__' for dots."""
    architecture = ARCHITECTURES[case.architecture]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("a model of the tests")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, value in (_settings(case) | settings).items():
        _add(writer, f"{architecture}.{name.replace('__', '.')}", value)
    _add_tokenizer(writer)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, case.config.get("n_layer") or case.config["num_hidden_layers"])
    for name, array in case.weights():
        stored = _laid_out(case, name, array)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _settings(case: Case) -> dict[str, Any]:
    config = case.config
    if case.architecture == "GPT2LMHeadModel":
        return {
            "block_count": config["n_layer"],
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "feed_forward_length": 4 * config["n_embd"],
            "attention__head_count": config["n_head"],
            "attention__layer_norm_epsilon": config["layer_norm_epsilon"],
        }
    common = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention__head_count": config["num_attention_heads"],
    }
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if case.architecture == "GPTNeoXForCausalLM":
        return common | {
            "rope__dimension_count": int(head_size * config["rope_parameters"]["partial_rotary_factor"]),
            "attention__layer_norm_epsilon": config["layer_norm_eps"],
            "use_parallel_residual": config["use_parallel_residual"],
        }
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    gated = common | {
        "attention__head_count_kv": config["num_key_value_heads"],
        "attention__layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope__freq_base": theta,
    }
    if "head_dim" in config:
        gated |= {"attention__key_length": head_size, "attention__value_length": head_size}
    if case.architecture == "LlamaForCausalLM":
        gated |= {"vocab_size": config["vocab_size"], "rope__dimension_count": head_size}
    return gated


def _laid_out(case: Case, name: str, array: Float32) -> Float32:
    """The tensor as the converter stores it."""
    if case.architecture == "GPT2LMHeadModel" and name.endswith(
        ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    ):
        return np.ascontiguousarray(array.T)
    if case.architecture == "GPTNeoXForCausalLM" and ".query_key_value." in name:
        heads = case.config["num_attention_heads"]
        split = array.reshape(heads, 3, -1, *array.shape[1:])
        return np.concatenate([split[:, part].reshape(-1, *array.shape[1:]) for part in range(3)])
    if case.architecture == "LlamaForCausalLM" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = case.config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        halves = array.reshape(heads, 2, -1, array.shape[1])
        return np.ascontiguousarray(halves.transpose(0, 2, 1, 3)).reshape(array.shape)
    return array


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    model = json.loads(tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL_TOKENS else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_uint32(name, value)
