"""Small seeded Llama models for the exporter's tests, as Hugging Face folders and GGUF files.

The reference is NumPy in float64, written from the papers, and shares nothing with the exporter.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Array = npt.NDArray[Any]
Weights = dict[str, Array]
Attention = Callable[[Array], Array]

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_CORPUS = [
    "The quick brown fox jumps over the lazy dog, 1234 times a day; it's what foxes do.",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "Größe, naïve café, 東京 and emoji 🦊 are bytes too.",
] * 3


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Sizes of a small model. Matrices have 1024 weights or more: the converter leaves smaller ones float."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 96
    vocabulary: int = 400
    context: int = 128
    tied: bool = True
    rope_theta: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def frequencies(self) -> Array:
        return self.rope_theta ** -(np.arange(0, self.head_dim, 2) / self.head_dim)


def random_weights(tiny: Tiny, seed: int = 7) -> Weights:
    """Weights under their Hugging Face names; gains near 1, logits of a few units."""
    random = np.random.default_rng(seed)
    kv = tiny.kv_heads * tiny.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (tiny.vocabulary, tiny.hidden)}
    for index in range(tiny.layers):
        prefix = f"model.layers.{index}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (tiny.hidden,),
            f"{prefix}self_attn.q_proj.weight": (tiny.hidden, tiny.hidden),
            f"{prefix}self_attn.k_proj.weight": (kv, tiny.hidden),
            f"{prefix}self_attn.v_proj.weight": (kv, tiny.hidden),
            f"{prefix}self_attn.o_proj.weight": (tiny.hidden, tiny.hidden),
            f"{prefix}post_attention_layernorm.weight": (tiny.hidden,),
            f"{prefix}mlp.gate_proj.weight": (tiny.intermediate, tiny.hidden),
            f"{prefix}mlp.up_proj.weight": (tiny.intermediate, tiny.hidden),
            f"{prefix}mlp.down_proj.weight": (tiny.hidden, tiny.intermediate),
        }
    shapes["model.norm.weight"] = (tiny.hidden,)
    if not tiny.tied:
        shapes["lm_head.weight"] = (tiny.vocabulary, tiny.hidden)
    gain = {name: 1.0 if len(shape) == 1 else 0.0 for name, shape in shapes.items()}
    return {
        name: (gain[name] + random.normal(scale=0.2, size=shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def config_json(tiny: Tiny) -> dict[str, Any]:
    """What config.json of such a model holds."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.intermediate,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "vocab_size": tiny.vocabulary,
        "max_position_embeddings": tiny.context,
        "rms_norm_eps": tiny.epsilon,
        "rope_theta": tiny.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tiny.tied,
        "bos_token_id": 1,
        "eos_token_id": 0,
    }


def tokenizer(*, bos: str | None = None) -> Tokenizer:
    """A byte-level BPE in the SmolLM manner, trained on a few lines; with bos, it begins every text."""
    result = Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    result.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    result.train_from_iterator(_CORPUS, trainer)
    if bos is not None:
        result.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, result.token_to_id(bos))]
        )
    return result


def write_hugging_face(
    folder: Path,
    tiny: Tiny,
    weights: Weights,
    *,
    config: Mapping[str, Any] | None = None,
    shards: int = 1,
    bos: str | None = None,
) -> Path:
    """Writes a model folder; `config` replaces single settings."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(tiny) | dict(config or {})))
    write_weights(folder, weights, shards)
    tokenizer(bos=bos).save(str(folder / "tokenizer.json"))
    names = {
        "bos_token": "<|im_start|>",
        "eos_token": {"content": "<|endoftext|>"},
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def write_weights(folder: Path, weights: Weights, shards: int = 1) -> None:
    """Writes safetensors, as one file or as shards with their index."""
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return
    names = [f"model-{index + 1:05d}-of-{shards:05d}.safetensors" for index in range(shards)]
    of = {name: names[index % shards] for index, name in enumerate(sorted(weights))}
    for file in names:
        save_file({name: weights[name] for name in weights if of[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": of}))


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    tiny: Tiny,
    weights: Weights,
    *,
    settings: Mapping[str, Any] | None = None,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Writes a GGUF file with q and k interleaved; `settings` adds or replaces metadata, None removes it."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in (_gguf_settings(tiny) | dict(settings or {})).items():
        if value is not None:
            _add(writer, name, value)
    for name, array in weights.items():
        array = interleaved(tiny, name, array)
        if array.ndim == 2 and quantisation != gguf.GGMLQuantizationType.F32:
            packed = gguf.quants.quantize(array, quantisation)
            writer.add_tensor(gguf_name(name), packed, raw_dtype=quantisation)
        else:
            writer.add_tensor(gguf_name(name), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str) -> str:
    """A Hugging Face tensor name in GGUF's terms."""
    if name == "rope_freqs.weight":
        return name
    if name.startswith("model.layers."):
        index, rest = name.removeprefix("model.layers.").split(".", 1)
        return f"blk.{index}.{_GGUF_NAMES[rest.removesuffix('.weight')]}.weight"
    return f"{_GGUF_NAMES.get(name.removesuffix('.weight'), name)}.weight"


def interleaved(tiny: Tiny, name: str, array: Array) -> Array:
    """Rows of q and k in the order x0 y0 x1 y1 ... of each head."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return array
    order = np.arange(tiny.head_dim).reshape(2, -1).T.ravel()
    heads = array.reshape(-1, tiny.head_dim, tiny.hidden)
    return np.ascontiguousarray(heads[:, order]).reshape(array.shape)


def _gguf_settings(tiny: Tiny) -> dict[str, Any]:
    description = json.loads(tokenizer().to_str())["model"]
    tokens = sorted(description["vocab"], key=description["vocab"].__getitem__)
    return {
        "llama.block_count": tiny.layers,
        "llama.context_length": tiny.context,
        "llama.embedding_length": tiny.hidden,
        "llama.feed_forward_length": tiny.intermediate,
        "llama.attention.head_count": tiny.heads,
        "llama.attention.head_count_kv": tiny.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": tiny.epsilon,
        "llama.rope.freq_base": tiny.rope_theta,
        "llama.rope.dimension_count": tiny.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL_TOKENS else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in description["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_uint32(name, value)


def reference_logits(tiny: Tiny, weights: Weights, ids: Array, frequencies: Array | None = None) -> Array:
    """Logits of one sequence of token ids [T] -> [T, V], in float64."""
    w = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    attention = reference_attention(tiny, tiny.frequencies if frequencies is None else frequencies)
    hidden = w["model.embed_tokens.weight"][ids]
    for index in range(tiny.layers):
        layer = {
            name.split(".", 3)[3]: a for name, a in w.items() if name.startswith(f"model.layers.{index}.")
        }
        normed = _norm(tiny, hidden, layer["input_layernorm.weight"])
        qkv = np.concatenate([normed @ layer[f"self_attn.{part}_proj.weight"].T for part in "qkv"], axis=-1)
        hidden = hidden + attention(qkv) @ layer["self_attn.o_proj.weight"].T
        normed = _norm(tiny, hidden, layer["post_attention_layernorm.weight"])
        gate = normed @ layer["mlp.gate_proj.weight"].T
        up = normed @ layer["mlp.up_proj.weight"].T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ layer["mlp.down_proj.weight"].T
    head = w["model.embed_tokens.weight" if tiny.tied else "lm_head.weight"]
    return np.asarray(_norm(tiny, hidden, w["model.norm.weight"]) @ head.T)


def reference_attention(tiny: Tiny, frequencies: Array) -> Attention:
    """Rotary causal attention over [T, q k v side by side] -> [T, heads * head_dim], in float64."""

    def rotate(x: Array) -> Array:
        angles = np.arange(len(x))[:, None, None] * frequencies
        first, second = np.split(x, 2, axis=-1)
        cosine, sine = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)

    def attend(qkv: Array) -> Array:
        length = len(qkv)
        heads = np.asarray(qkv, np.float64).reshape(length, -1, tiny.head_dim)
        query, key, value = np.split(heads, [tiny.heads, tiny.heads + tiny.kv_heads], axis=1)
        repeats = tiny.heads // tiny.kv_heads
        key, value = (np.repeat(part, repeats, axis=1) for part in (rotate(key), value))
        scores = np.einsum("thd,shd->hts", rotate(query), key) / np.sqrt(tiny.head_dim)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return np.asarray(np.einsum("hts,shd->thd", shares, value).reshape(length, -1))

    return attend


def _norm(tiny: Tiny, x: Array, gain: Array) -> Array:
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + tiny.epsilon) * gain)


class CpuProgram:
    """Runs an artifact's CPU program for one sequence, attention in NumPy, the way a server would."""

    def __init__(self, artifact: Path) -> None:
        self.manifest = json.loads((artifact / "assets.extra/manifest.json").read_text())
        self._folder = artifact / "assets.extra/cpu"
        program = self.manifest["cpu"]
        self.segments = [self._open(name) for name in program["segments"]]
        self.head = self._open(program["head"])
        self.embedding = np.load(self._folder / program["embedding"])

    def logits(self, ids: Array, attention: Attention) -> Array:
        """Token ids [T] -> logits [T, V]."""
        outputs = self._run(self.segments[0], hidden=self.embedding[ids])
        hidden = self.embedding[ids]
        for segment in self.segments[1:]:
            mixed = attention(outputs["qkv"]).astype(np.float32)
            outputs = self._run(segment, hidden=hidden, attention=mixed)
            hidden = outputs["hidden"]
        return self._run(self.head, hidden=hidden)["logits"]

    def _open(self, name: str) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_path=str(self._folder / name), num_threads=1)

    @staticmethod
    def _run(interpreter: Any, **inputs: Array) -> dict[str, Array]:
        (signature,) = interpreter.get_signature_list()
        outputs: dict[str, Array] = interpreter.get_signature_runner(signature)(**inputs)
        return outputs
