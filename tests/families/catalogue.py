"""The models of the family tests: settings of every family, as transformers 5 and older ones spell them.

Sizes repeat where they can, as each new combination of head sizes costs the CPU runner a compilation.
"""

from typing import Any, Final

from tests.families.cases import Case

VOCABULARY: Final = 300
"""Of the tests' tokenizer; some models have more rows, as published models do."""


def _gpt2(**settings: Any) -> dict[str, Any]:
    """As transformers 5.23 writes config.json, but for dropout and summaries."""
    return {
        "activation_function": "gelu_new",
        "add_cross_attention": False,
        "architectures": ["GPT2LMHeadModel"],
        "bos_token_id": 1,
        "dtype": "float32",
        "eos_token_id": 0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_embd": 64,
        "n_head": 4,
        "n_inner": None,
        "n_layer": 2,
        "n_positions": 160,
        "pad_token_id": None,
        "reorder_and_upcast_attn": False,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "transformers_version": "5.23.0",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    } | settings


def _gpt_neox(**settings: Any) -> dict[str, Any]:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_dropout": 0.0,
        "hidden_size": 64,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 160,
        "model_type": "gpt_neox",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": None,
        "rope_parameters": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000.0,
            "rope_type": "default",
        },
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": VOCABULARY,
    } | settings


def _gated(family: str, **settings: Any) -> dict[str, Any]:
    """Llama, Mistral, Qwen 2 and 3."""
    return {
        "architectures": [f"{family}ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 160,
        "model_type": family.lower(),
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": VOCABULARY,
    } | settings


def _old(config: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The spelling before transformers 5, whose rotary settings are at the top level."""
    config = {name: value for name, value in config.items() if name != "rope_parameters"}
    return config | {"torch_dtype": "float32", "transformers_version": "4.44.0"} | settings


_LLAMA3: Final = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
_NO_WINDOW: Final = {
    "layer_types": ["full_attention", "full_attention"],
    "max_window_layers": 28,
    "sliding_window": None,
    "use_sliding_window": False,
}

CASES: Final = (
    Case("gpt2", _gpt2(), seed=7),
    Case(
        "gpt2 without prefix, odd heads, older",
        _gpt2(n_embd=60, n_head=3, n_inner=100, n_ctx=160, activation_function="gelu_pytorch_tanh"),
        storage="float16",
        prefix="",
        seed=7,
    ),
    Case("gpt2 untied, exact gelu", _gpt2(tie_word_embeddings=False, activation_function="gelu"), seed=36),
    Case("gpt_neox parallel", _gpt_neox(), seed=5),
    Case(
        "gpt_neox sequential, no attention bias, older",
        _old(
            _gpt_neox(use_parallel_residual=False, attention_bias=False),
            rotary_pct=1.0,
            rotary_emb_base=5000,
            rope_scaling=None,
        ),
        seed=2,
    ),
    Case(
        "gpt_neox odd heads, half rotary, tied",
        _gpt_neox(
            hidden_size=60,
            num_attention_heads=3,
            hidden_act="gelu_fast",
            tie_word_embeddings=True,
            rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_type": "default"},
        ),
        storage="bfloat16",
    ),
    Case(
        "llama grouped, tied",
        _gated("Llama", tie_word_embeddings=True, attention_bias=False, mlp_bias=False, head_dim=16),
        seed=10,
    ),
    Case(
        "llama multi-head, llama3 scaling, older",
        _old(
            _gated("Llama", num_key_value_heads=4, vocab_size=VOCABULARY + 20),
            rope_theta=500.0,
            rope_scaling=_LLAMA3,
        ),
        storage="bfloat16",
        shards=3,
        seed=8,
    ),
    Case(
        "llama biases, linear scaling, own head size",
        _gated(
            "Llama",
            attention_bias=True,
            mlp_bias=True,
            head_dim=32,
            rope_parameters={"factor": 2.5, "rope_theta": 1000.0, "rope_type": "linear"},
        ),
        storage="float16",
        seed=10,
    ),
    Case(
        "mistral with a window, older",
        _old(_gated("Mistral", max_position_embeddings=256), rope_theta=10000.0, sliding_window=144),
        seed=4,
    ),
    Case(
        "mistral without window, own head size",
        _gated("Mistral", sliding_window=None, head_dim=32, rms_norm_eps=1e-05),
        seed=26,
    ),
    Case(
        "qwen2 tied, older",
        _old(
            _gated("Qwen2", tie_word_embeddings=True, sliding_window=32, max_window_layers=1),
            rope_theta=1000000.0,
            use_sliding_window=False,
        ),
        storage="bfloat16",
        seed=11,
    ),
    Case(
        "qwen2 untied, odd heads",
        _gated("Qwen2", hidden_size=60, num_attention_heads=3, num_key_value_heads=3) | _NO_WINDOW,
        seed=31,
    ),
    Case(
        "qwen3 tied, own head size",
        _gated("Qwen3", head_dim=32, tie_word_embeddings=True) | _NO_WINDOW,
        seed=11,
    ),
    Case(
        "qwen3 biases, older",
        _old(
            _gated("Qwen3", head_dim=16, num_key_value_heads=4, attention_bias=True),
            rope_theta=1000000.0,
            rope_scaling=None,
            **_NO_WINDOW,
        ),
        shards=2,
        seed=6,
    ),
)

EXPORTED: Final = tuple(
    case
    for case in CASES
    if case.name
    in (
        "gpt2 without prefix, odd heads, older",
        "gpt_neox odd heads, half rotary, tied",
        "llama biases, linear scaling, own head size",
        "mistral with a window, older",
        "qwen2 untied, odd heads",
        "qwen3 tied, own head size",
    )
)
"""The hardest of each family: `make test` exports these alone, as that takes seconds; `make parity` all."""

REALISTIC: Final = (
    Case("gpt2 124M", _gpt2(n_embd=768, n_head=12, n_layer=12, n_positions=1024, vocab_size=50257)),
    Case(
        "gpt_neox 162M",  # the sizes of Pythia-160M
        _gpt_neox(
            hidden_size=768,
            intermediate_size=3072,
            num_attention_heads=12,
            num_hidden_layers=12,
            max_position_embeddings=2048,
            vocab_size=50304,
        ),
    ),
    Case(
        "llama 135M",  # the sizes of SmolLM2-135M
        _gated(
            "Llama",
            hidden_size=576,
            intermediate_size=1536,
            num_attention_heads=9,
            num_key_value_heads=3,
            num_hidden_layers=30,
            max_position_embeddings=8192,
            rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
            rms_norm_eps=1e-05,
            tie_word_embeddings=True,
            vocab_size=49152,
        ),
    ),
    Case(
        "mistral 150M",
        _gated(
            "Mistral",
            hidden_size=768,
            head_dim=128,
            intermediate_size=2688,
            num_attention_heads=8,
            num_key_value_heads=2,
            num_hidden_layers=12,
            max_position_embeddings=32768,
            sliding_window=4096,
            vocab_size=32000,
        ),
    ),
    Case(
        "qwen2 150M",  # narrower than Qwen2.5-0.5B, with its head sizes
        _gated(
            "Qwen2",
            hidden_size=640,
            intermediate_size=2432,
            num_attention_heads=10,
            num_key_value_heads=2,
            num_hidden_layers=12,
            max_position_embeddings=32768,
            rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"},
            tie_word_embeddings=True,
            vocab_size=151936,
        ),
    ),
    Case(
        "qwen3 150M",  # narrower than Qwen3-0.6B, with its head sizes
        _gated(
            "Qwen3",
            hidden_size=512,
            head_dim=128,
            intermediate_size=1536,
            num_attention_heads=8,
            num_key_value_heads=4,
            num_hidden_layers=14,
            max_position_embeddings=40960,
            rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"},
            tie_word_embeddings=True,
            vocab_size=151936,
        ),
    ),
)
"""One model of each family as large as the small published ones; run by `make parity`."""
