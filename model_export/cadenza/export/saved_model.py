"""The model as a plain SavedModel, from string to string: standard operations, needs TensorFlow alone.

Each signature checks what it is given and fails with INVALID_ARGUMENT and a message for the caller.
"""

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from cadenza.export import sampling
from cadenza.export.generation import Generated, Generator
from cadenza.export.model import DecoderConfig
from cadenza.export.sampling import SamplingInputs
from cadenza.export.signatures import SIGNATURES
from cadenza.export.steps import Steps
from cadenza.export.text.graph import GraphTokenizer

Tensors = Mapping[str, tf.Tensor]


class Pipeline(tf.Module):
    """Tokenize, infer, detokenize: one method for each signature of an artifact, on batches of B."""

    def __init__(
        self,
        config: DecoderConfig,
        generator: Generator,
        tokenizer: GraphTokenizer,
        default_max_tokens: int,
    ) -> None:
        super().__init__(name="pipeline")
        self._config = config
        self._generator = generator
        self._tokenizer = tokenizer
        self._default_max_tokens = default_max_tokens

    def serving_default(self, prompt: tf.Tensor) -> Tensors:
        """Greedy completions of the default length, less where the context ends before."""
        token_ids, lengths = self._read_prompts(prompt)
        room = self._config.max_context - lengths
        batch = tf.shape(lengths)[0]
        most = tf.minimum(self._default_max_tokens, room)
        with tf.control_dependencies([_check(room >= 1, self._too_long("one more token"), lengths)]):
            result = self._generator.generate(token_ids, lengths, most, sampling.greedy(batch))
        return {"completion": self._text(result)}

    def complete(
        self,
        prompt: tf.Tensor,
        max_tokens: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        seed: tf.Tensor,
    ) -> Tensors:
        """Completions by each row's own sampling; token_ids are padded with zeros behind token_count."""
        inputs = [max_tokens, temperature, top_k, top_p, seed]
        names = ["max_tokens", "temperature", "top_k", "top_p", "seed"]
        sizes = [
            _check(tf.size(value) == tf.size(prompt), f"{name} needs one value for each prompt", value)
            for name, value in zip(names, inputs, strict=True)
        ]
        with tf.control_dependencies(sizes):
            token_ids, lengths = self._read_prompts(prompt)
        checks = [
            _check(max_tokens >= 1, "max_tokens must be at least 1", max_tokens),
            _check(
                lengths <= self._config.max_context - max_tokens, self._too_long("max_tokens more"), lengths
            ),
            _check(
                tf.math.is_finite(temperature) & (temperature >= 0),
                "temperature must be 0 (greedy) or more",
                temperature,
            ),
            _check(top_k >= 0, "top_k must be 0 (all tokens) or more", top_k),
            _check((top_p > 0) & (top_p <= 1), "top_p must be above 0, at most 1 (all tokens)", top_p),
        ]
        with tf.control_dependencies(checks):
            chosen_by = SamplingInputs(temperature, top_k, top_p, seed)
            result = self._generator.generate(token_ids, lengths, max_tokens, chosen_by)
        return {
            "completion": self._text(result),
            "token_ids": result.token_ids,
            "token_count": result.count,
            "finish_reason": tf.where(result.ended, "stop", "length"),
        }

    def tokenize(self, text: tf.Tensor) -> Tensors:
        """Token ids, padded with zeros behind length; the bos token first where the model has one."""
        ragged = self._tokenizer.tokenize(text)
        return {"token_ids": ragged.to_tensor(), "length": _lengths(ragged)}

    def detokenize(self, token_ids: tf.Tensor, length: tf.Tensor) -> Tensors:
        """The text, special tokens included; bytes that are no UTF-8 become U+FFFD."""
        sizes = _check(tf.size(length) == tf.shape(token_ids)[0], "length needs one value a row", length)
        width = tf.shape(token_ids)[1]
        with tf.control_dependencies([sizes]):
            within = _check(
                (length >= 0) & (length <= width), "length must be from 0 to the columns of token_ids", length
            )
        with tf.control_dependencies([within]):
            ragged = tf.RaggedTensor.from_tensor(token_ids, lengths=length)
        return {"text": self._tokenizer.detokenize(ragged, special=True)}

    def score(self, text: tf.Tensor) -> Tensors:
        """Each token's log-probability given those before it; zero for the first, and behind length."""
        token_ids, lengths = self._read_prompts(text)
        fits = _check(lengths <= self._config.max_context, self._too_long("none"), lengths)
        with tf.control_dependencies([fits]):
            return {"logprob": self._generator.score(token_ids, lengths), "length": tf.identity(lengths)}

    def logits(self, token_ids: tf.Tensor) -> Tensors:
        """Next-token logits after each token."""
        fits = _check(
            tf.shape(token_ids)[1] <= self._config.max_context,
            f"token_ids may have {self._config.max_context} columns, the context",
            tf.shape(token_ids),
        )
        with tf.control_dependencies([fits]):
            return {"logits": self._generator.logits(token_ids)}

    def _read_prompts(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Token ids [B, T], padded, and lengths [B], none zero."""
        ragged = self._tokenizer.tokenize(text)
        lengths = _lengths(ragged)
        with tf.control_dependencies([_check(lengths >= 1, "a text has no tokens: give one", lengths)]):
            return ragged.to_tensor(), tf.identity(lengths)

    def _text(self, result: Generated) -> tf.Tensor:
        ragged = tf.RaggedTensor.from_tensor(result.token_ids, lengths=result.count)
        return self._tokenizer.detokenize(ragged, special=False)

    def _too_long(self, more: str) -> str:
        return (
            f"a prompt is too long: with {more} it must fit the context of {self._config.max_context} tokens"
        )


def write_saved_model(pipeline: Pipeline, steps: Steps, folder: Path) -> None:
    """Writes saved_model.pb and variables/: the signatures of signatures.py, and the attribute `steps`."""
    module = tf.Module(name="model")
    module.pipeline = pipeline
    module.steps = steps
    signatures = {}
    for name, signature in SIGNATURES.items():
        specification = [
            tf.TensorSpec([None] * rank, dtype, input_name)
            for input_name, (dtype, rank) in signature.inputs.items()
        ]
        signatures[name] = tf.function(
            getattr(pipeline, name), input_signature=specification, autograph=False
        )
        setattr(module, name, signatures[name])
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _lengths(ragged: tf.RaggedTensor) -> tf.Tensor:
    return tf.cast(ragged.row_lengths(), tf.int32)


def _check(condition: tf.Tensor, message: str, value: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(tf.reduce_all(condition), [message, value])
