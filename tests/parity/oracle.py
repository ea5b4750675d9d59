"""The oracle: SmolLM2 in transformers (PyTorch, float32), from the same GGUF that the exporter reads.

Shares no code with the exporter. `python -m tests.parity.oracle OUTPUT_FOLDER`, in the environment that
run.sh makes, writes reference.json (committed as tests/reference/smollm2-135m.json) and what else
tests/parity compares with.
"""

import json
import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from deploy.demo.models import SMOLLM2
from tests.data import HOSTILE_STRINGS, NOVEL_CHAPTER, data_file, humaneval_tasks, humaneval_text
from tests.parity.prompts import CHATS, HUMAN_EVAL_INDICES, TEXTS
from tests.real.checks import token_digest
from tokenizers import pre_tokenizers

GENERATED_TOKENS: Final = 64
SCORED_TOKENS: Final = 512
KEPT_LOGIT_ROWS: Final = 64
SPECIAL_TOKEN_TYPE: Final = 3

LAYER_TENSORS: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Oracle:
    """The reference model, its tokenizer, and the same without the rule that digits stand alone.

    The latter is there because data sheets of this model exist that were measured without that rule.
    """

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        self.tokenizer = _build_tokenizer(fields)
        self.undivided = _build_tokenizer(fields, split_digits=False)
        self._model = transformers.LlamaForCausalLM(_build_config(fields)).eval()
        state = _state_dict(reader, fields)
        missing, unexpected = self._model.load_state_dict(state, strict=False)
        if set(missing) - {"lm_head.weight"} or unexpected:
            raise ValueError(f"the GGUF does not fit the model: missing {missing}, unexpected {unexpected}")
        self._model.tie_weights()

    def logits(self, token_ids: Sequence[int]) -> Any:
        """Returns the logits after every token, [T, V] float32."""
        with torch.inference_mode():
            return self._model(torch.tensor([list(token_ids)])).logits[0]

    def mean_nll(self, token_ids: Sequence[int]) -> float:
        """Returns the mean negative log-likelihood of the first tokens, but for the very first."""
        ids = list(token_ids[:SCORED_TOKENS])
        loss = torch.nn.functional.cross_entropy(self.logits(ids)[:-1].double(), torch.tensor(ids[1:]))
        return float(loss)

    def greedy(self, prompt: Sequence[int]) -> tuple[list[int], list[float]]:
        """Returns the most probable continuation, end tokens ignored, and each step's lead in logits."""
        tokens: list[int] = []
        gaps: list[float] = []
        step, cache = torch.tensor([list(prompt)]), None
        with torch.inference_mode():
            while len(tokens) < GENERATED_TOKENS:
                output = self._model(step, past_key_values=cache, use_cache=True)
                best = torch.topk(output.logits[0, -1], 2)
                tokens.append(int(best.indices[0]))
                gaps.append(round(float(best.values[0] - best.values[1]), 6))
                step, cache = best.indices[:1][None], output.past_key_values
        return tokens, gaps


def _build_config(fields: dict[str, Any]) -> Any:
    return transformers.LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        attn_implementation="eager",
        dtype=torch.float32,
    )


def _state_dict(reader: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the dequantised weights under transformers' names, rotary rows in half-split order."""
    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    state = {}
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.weight"
            if parts[2] in heads:
                weights = _half_split(weights, heads[parts[2]])
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]
        state[name] = torch.from_numpy(np.ascontiguousarray(weights))
    return state


def _half_split(weights: Any, heads: int) -> Any:
    """Reorders a projection's rows from interleaved rotary pairs (2i, 2i + 1) to (i, i + d/2)."""
    rows, columns = weights.shape
    pairs = weights.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _build_tokenizer(fields: dict[str, Any], *, split_digits: bool = True) -> Any:
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*digits, words])
    backend.decoder = tokenizers.decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == SPECIAL_TOKEN_TYPE]
    backend.add_special_tokens(special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        chat_template=fields["tokenizer.chat_template"],
    )


def _greedy_cases(oracle: Oracle) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    for text in TEXTS:
        ids = oracle.tokenizer(text)["input_ids"]
        cases.append({"text": text, "prompt_token_ids": ids} | _continuation(oracle, ids))
    for chat in CHATS:
        ids = oracle.tokenizer.apply_chat_template(list(chat), add_generation_prompt=True)["input_ids"]
        cases.append({"chat": chat, "prompt_token_ids": ids} | _continuation(oracle, ids))
    tasks = humaneval_tasks()
    for index in HUMAN_EVAL_INDICES:
        ids = oracle.tokenizer(tasks[index]["prompt"])["input_ids"]
        cases.append(
            {"humaneval": index, "prompt_token_ids_sha256": token_digest(ids)} | _continuation(oracle, ids)
        )
    return cases


def _continuation(oracle: Oracle, prompt: Sequence[int]) -> dict[str, Any]:
    tokens, gaps = oracle.greedy(prompt)
    print(f"{min(gaps):9.6f}  {oracle.tokenizer.decode(tokens)[:80]!r}")
    return {"token_ids": tokens, "gaps": gaps}


def _reference(oracle: Oracle, scored: Sequence[int]) -> dict[str, Any]:
    packages = ("gguf", "numpy", "tokenizers", "torch", "transformers")
    undivided = oracle.undivided(humaneval_text())["input_ids"]
    return {
        "made_by": "tests/parity/oracle.py",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "weights_sha256": SMOLLM2.sha256,
        "humaneval": {
            "tokens": SCORED_TOKENS,
            "mean_nll": round(oracle.mean_nll(scored), 6),
            "mean_nll_digits_undivided": round(oracle.mean_nll(undivided), 6),
        },
        "greedy": _greedy_cases(oracle),
    }


def _long_run(oracle: Oracle) -> dict[str, Any]:
    chapter = data_file(NOVEL_CHAPTER).read_text(encoding="utf-8")
    strings: list[str] = json.loads(data_file(HOSTILE_STRINGS).read_text(encoding="utf-8"))
    texts = [*strings, chapter, *(task["prompt"] for task in humaneval_tasks())]
    encoded = [oracle.tokenizer(text)["input_ids"] for text in texts]
    return {
        "novel_mean_nll": oracle.mean_nll(oracle.tokenizer(chapter)["input_ids"]),
        "encoded": [{"text": text, "token_ids": ids} for text, ids in zip(texts, encoded, strict=True)],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes indented JSON with every list of numbers on one line."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\n[-\d.,e\s]+\]", lambda match: " ".join(match[0].split()), text)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Writes everything into the folder that the command line names."""
    output = Path(sys.argv[1])
    output.mkdir(parents=True, exist_ok=True)
    oracle = Oracle(data_file(SMOLLM2))
    scored = oracle.tokenizer(humaneval_text())["input_ids"][:SCORED_TOKENS]
    write_json(output / "reference.json", _reference(oracle, scored))
    write_json(output / "long.json", _long_run(oracle))
    np.save(output / "logits.npy", oracle.logits(scored)[-KEPT_LOGIT_ROWS:].numpy())


if __name__ == "__main__":
    main()
