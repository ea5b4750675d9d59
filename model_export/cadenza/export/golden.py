"""Golden vectors: what a model answers, recorded at export, to be compared on another machine.

Texts go through the reference tokenizer (`tokenizers`), completions through the decoder's definition, run
operation by operation: no graph is involved, so that the graph has something to be held against. Logits are
kept as digests, from the decoder and from the CPU program, on the same tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tokenizers import Tokenizer

from cadenza.export import decoder
from cadenza.export.cpu_reference import cpu_logits
from cadenza.export.model import DecoderConfig, DecoderWeights, FloatArray
from cadenza.export.tokenizer import TokenizerFiles
from cadenza.v1.golden_pb2 import CompletionVector, GoldenVectors, LogitsDigest, TokenizerVector
from cadenza.v1.manifest_pb2 import CpuProgram, DecoderShape

FILE = "golden.json"
_NEW_TOKENS = 16
_PROMPTS = (
    "The quick brown fox",
    "def fibonacci(n):\n    ",
    "Question: What is the capital of France?\nAnswer:",
)
_TEXTS = (
    *_PROMPTS,
    "I'll say it's 1,234.50 EUR, isn't it? WE'RE sure they'd've paid 99 %.",
    "  leading, trailing and\t\tinner   blanks \n\n\n  and lines\r\n\r\n ",
    "for i in range(10):\n\tif x[i] != y[-i]:\n\t\treturn {'a': None}  # why?\n",
    "Größe, naïve café, Ångström, ﬁn, e\u0301 and n\u0303",
    "東京は日本の首都です。「こんにちは」 한국어 中文字符",
    "Привет, мир! שלום עולם مرحبا بالعالم नमस्ते",
    "🦊👩‍👩‍👧‍👦🏳️‍🌈 ½ ² Ⅷ ٣٤ \u00a0\u2003\u3000\u200b",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ======== ........",
)


def golden_vectors(
    config: DecoderConfig, weights: DecoderWeights[tf.Variable], tokenizer: TokenizerFiles
) -> GoldenVectors:
    """Asks the tokenizer and the decoder for their answers; `add_cpu_digests` asks the CPU program."""
    ends = [_single(tokenizer, token_id) for token_id in tokenizer.eos_token_ids]
    texts = [*_TEXTS, *(f"before{end} after{end}{end}" for end in ends)]
    vectors = GoldenVectors(
        tokenizer=[TokenizerVector(text=text, token_ids=_encode(tokenizer, text)) for text in texts]
    )
    for text in _PROMPTS:
        prompt = _encode(tokenizer, text)
        if len(prompt) + _NEW_TOKENS > config.max_context:
            continue
        new, logits = _complete(config, weights, prompt, tokenizer.eos_token_ids)
        vectors.completions.append(
            CompletionVector(
                prompt=text,
                prompt_token_ids=prompt,
                token_ids=new,
                saved_model=digest(logits),
            )
        )
    return vectors


def add_cpu_digests(vectors: GoldenVectors, shape: DecoderShape, cpu_folder: Path, cpu: CpuProgram) -> None:
    """Asks the CPU program the same; on its own, as its weights take memory beside the decoder's."""
    sequences = [[*vector.prompt_token_ids, *vector.token_ids] for vector in vectors.completions]
    if sequences:
        on_cpu = cpu_logits(cpu_folder, shape, cpu, sequences)
        for vector, logits in zip(vectors.completions, on_cpu, strict=True):
            vector.cpu.CopyFrom(digest(logits))


def digest(logits: FloatArray) -> LogitsDigest:
    """What is kept of logits [T, V]."""
    return LogitsDigest(
        best_token_ids=logits.argmax(axis=-1).tolist(),
        best_logits=logits.max(axis=-1).tolist(),
        root_mean_squares=np.sqrt(np.mean(np.square(logits, dtype=np.float64), axis=-1)).tolist(),
    )


def difference(found: LogitsDigest, expected: LogitsDigest) -> float:
    """The largest difference of any number of two digests, relative to the largest number expected."""
    numbers = [np.array([*digest_.best_logits, *digest_.root_mean_squares]) for digest_ in (found, expected)]
    return float(np.abs(numbers[0] - numbers[1]).max() / np.abs(numbers[1]).max())


def _complete(
    config: DecoderConfig,
    weights: DecoderWeights[tf.Variable],
    prompt: Sequence[int],
    end_token_ids: Sequence[int],
) -> tuple[list[int], FloatArray]:
    """A greedy completion, and the logits after each token of the prompt and of it."""
    cache = decoder.empty_cache(config, tf.constant(1))
    new: list[int] = []
    logits: list[FloatArray] = []
    fresh, ended = list(prompt), False
    while True:
        length = len(prompt) + len(new)
        positions = tf.range(length - len(fresh), length)[None]
        visible = tf.range(length)[None, None] <= positions[:, :, None]
        hidden, cache = decoder.extend(config, weights, cache, tf.constant([fresh]), positions, visible)
        logits.append(decoder.head(config, weights, hidden).numpy())
        if ended:
            return new, np.concatenate(logits)
        fresh = [int(logits[-1][-1].argmax())]
        new += fresh
        ended = len(new) == _NEW_TOKENS or fresh[0] in end_token_ids


def _encode(tokenizer: TokenizerFiles, text: str) -> list[int]:
    """As the signature `tokenize`: the bos token comes first only where the tokenizer adds it."""
    ids: list[int] = Tokenizer.from_str(tokenizer.tokenizer_json).encode(text, add_special_tokens=False).ids
    return (
        ids
        if tokenizer.bos_token_id is None or not tokenizer.add_bos_token
        else [tokenizer.bos_token_id, *ids]
    )


def _single(tokenizer: TokenizerFiles, token_id: int) -> str:
    return Tokenizer.from_str(tokenizer.tokenizer_json).id_to_token(token_id) or ""
