"""Golden vectors: what a model answers, recorded at export, to be compared on another machine.

Texts go through the reference tokenizer (`tokenizers`), completions through the graph; logits are kept as
digests, from the SavedModel's decoder and from the CPU program, on the same tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tokenizers import Tokenizer

from cadenza.export import sampling
from cadenza.export.cpu_reference import cpu_logits
from cadenza.export.generation import Generator
from cadenza.export.model import FloatArray
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


def golden_vectors(generator: Generator, tokenizer: TokenizerFiles, shape: DecoderShape) -> GoldenVectors:
    """Asks the tokenizer and the decoder for their answers; `add_cpu_digests` asks the CPU program."""
    ends = [_single(tokenizer, token_id) for token_id in tokenizer.eos_token_ids]
    texts = [*_TEXTS, *(f"before{end} after{end}{end}" for end in ends)]
    vectors = GoldenVectors(
        tokenizer=[TokenizerVector(text=text, token_ids=_encode(tokenizer, text)) for text in texts]
    )
    encoded = {text: _encode(tokenizer, text) for text in _PROMPTS}
    prompts = {text: ids for text, ids in encoded.items() if len(ids) + _NEW_TOKENS <= shape.max_context}
    if not prompts:
        return vectors
    completions = _complete(generator, list(prompts.values()))
    sequences = [[*prompt, *new] for prompt, new in zip(prompts.values(), completions, strict=True)]
    saved = [generator.logits(tf.constant([ids], tf.int32))[0].numpy() for ids in sequences]
    for (text, prompt), new, logits in zip(prompts.items(), completions, saved, strict=True):
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


def _complete(generator: Generator, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    ragged = tf.ragged.constant(prompts, tf.int32)
    lengths = tf.cast(ragged.row_lengths(), tf.int32)
    most = tf.fill([len(prompts)], _NEW_TOKENS)
    result = generator.generate(ragged.to_tensor(), lengths, most, sampling.greedy(len(prompts)))
    rows = zip(result.token_ids.numpy(), result.count.numpy(), strict=True)
    return [row[:count].tolist() for row, count in rows]


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
