"""The tensors that a config.json of each family asks for, under their Hugging Face names, and their scales.

Written from transformers' models and shares nothing with the exporter. Scales make logits of several units,
attention that prefers some tokens, and layers that outweigh the embedding.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor's shape and its normal distribution."""

    shape: tuple[int, ...]
    scale: float
    mean: float = 0.0


Named = Iterator[tuple[str, Tensor]]


def tensors(config: Config) -> Named:
    """Names and tensors in a fixed order."""
    return _FAMILIES[config["architectures"][0]](config)


def _matrix(rows: int, columns: int, *, inputs: int | None = None) -> Tensor:
    return Tensor((rows, columns), 1.6 / (columns if inputs is None else inputs) ** 0.5)


def _table(config: Config, rows: int, hidden: int) -> Tensor:
    return Tensor((rows, hidden), 3.0 / hidden**0.5)


def _norm(name: str, size: int, *, bias: bool) -> Named:
    yield f"{name}.weight", Tensor((size,), 0.3, 1.0)
    if bias:
        yield f"{name}.bias", Tensor((size,), 0.15)


def _linear(name: str, rows: int, columns: int, *, bias: bool) -> Named:
    yield f"{name}.weight", _matrix(rows, columns)
    if bias:
        yield f"{name}.bias", Tensor((rows,), 0.15)


def _conv1d(name: str, rows: int, columns: int) -> Named:
    yield f"{name}.weight", _matrix(columns, rows, inputs=columns)
    yield f"{name}.bias", Tensor((rows,), 0.15)


def _gpt2(config: Config) -> Named:
    hidden = config["n_embd"]
    inner = config["n_inner"] or 4 * hidden
    yield "transformer.wte.weight", _table(config, config["vocab_size"], hidden)
    yield "transformer.wpe.weight", Tensor((config["n_positions"], hidden), 0.3)
    for index in range(config["n_layer"]):
        layer = f"transformer.h.{index}."
        yield from _norm(f"{layer}ln_1", hidden, bias=True)
        yield from _conv1d(f"{layer}attn.c_attn", 3 * hidden, hidden)
        yield from _conv1d(f"{layer}attn.c_proj", hidden, hidden)
        yield from _norm(f"{layer}ln_2", hidden, bias=True)
        yield from _conv1d(f"{layer}mlp.c_fc", inner, hidden)
        yield from _conv1d(f"{layer}mlp.c_proj", hidden, inner)
    yield from _norm("transformer.ln_f", hidden, bias=True)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", _table(config, config["vocab_size"], hidden)


def _gpt_neox(config: Config) -> Named:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    bias = config.get("attention_bias", True)
    yield "gpt_neox.embed_in.weight", _table(config, config["vocab_size"], hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{index}."
        yield from _norm(f"{layer}input_layernorm", hidden, bias=True)
        yield from _linear(f"{layer}attention.query_key_value", 3 * hidden, hidden, bias=bias)
        yield from _linear(f"{layer}attention.dense", hidden, hidden, bias=bias)
        yield from _norm(f"{layer}post_attention_layernorm", hidden, bias=True)
        yield from _linear(f"{layer}mlp.dense_h_to_4h", inner, hidden, bias=True)
        yield from _linear(f"{layer}mlp.dense_4h_to_h", hidden, inner, bias=True)
    yield from _norm("gpt_neox.final_layer_norm", hidden, bias=True)
    if not config["tie_word_embeddings"]:
        yield "embed_out.weight", _table(config, config["vocab_size"], hidden)


def _gated(config: Config) -> Named:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    family = config["architectures"][0]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or hidden // heads
    bias = config.get("attention_bias", False)
    qkv_bias, mlp_bias = bias or family == "Qwen2ForCausalLM", config.get("mlp_bias", False)
    yield "model.embed_tokens.weight", _table(config, config["vocab_size"], hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        yield from _norm(f"{layer}input_layernorm", hidden, bias=False)
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            yield from _linear(f"{layer}self_attn.{name}_proj", count * size, hidden, bias=qkv_bias)
        if family == "Qwen3ForCausalLM":
            yield f"{layer}self_attn.q_norm.weight", Tensor((size,), 1.0, 2.0)
            yield f"{layer}self_attn.k_norm.weight", Tensor((size,), 0.5, 0.5)
        yield from _linear(f"{layer}self_attn.o_proj", hidden, heads * size, bias=bias)
        yield from _norm(f"{layer}post_attention_layernorm", hidden, bias=False)
        yield from _linear(f"{layer}mlp.gate_proj", inner, hidden, bias=mlp_bias)
        yield from _linear(f"{layer}mlp.up_proj", inner, hidden, bias=mlp_bias)
        yield from _linear(f"{layer}mlp.down_proj", hidden, inner, bias=mlp_bias)
    yield from _norm("model.norm", hidden, bias=False)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", _table(config, config["vocab_size"], hidden)


_FAMILIES: Final[Mapping[str, Callable[[Config], Named]]] = {
    "GPT2LMHeadModel": _gpt2,
    "GPTNeoXForCausalLM": _gpt_neox,
    "LlamaForCausalLM": _gated,
    "MistralForCausalLM": _gated,
    "Qwen2ForCausalLM": _gated,
    "Qwen3ForCausalLM": _gated,
}
