"""Makes a decoder easy to quantise without changing what it computes: no activation channel stands out.

Serves the int8 CPU program, whose activations get one scale per row, so that one large channel costs all
others their precision. The residual stream is turned by an orthogonal matrix, which RMSNorm without a gain
does not notice (QuaRot, arXiv:2404.00456; SliceGPT, arXiv:2401.15024); the input of `down`, which no rotation
reaches for free, is scaled per channel through `up` (after SmoothQuant, arXiv:2211.10438).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cadenza.export import decoder
from cadenza.export.model import DecoderConfig, FloatArray, LayerWeights

_EXPONENTS = ((0.4, 0.0), (0.4, 0.5), (0.5, 0.0), (0.5, 0.25), (0.5, 0.5), (0.6, 0.5))
"""Tried per layer: powers of the activations' and the inverse weights' sizes."""
_SMALLEST = 1e-3
_TINY = 1e-30


class Smoother:
    """Turns a decoder's weights into equivalent ones, layer after layer in the decoder's order.

    Holds the calibration rows' hidden states between layers, never more than one layer's weights.
    """

    def __init__(self, config: DecoderConfig, embedding: FloatArray, tokens: Sequence[Sequence[int]]) -> None:
        """Takes the plain embedding [V, hidden_size] and the calibration's sequences of token ids (none is
        empty; without any, layers are rotated but not scaled).
        """
        self._config = config
        self._rotation = orthogonal(config.hidden_size)
        self._lengths = [len(ids) for ids in tokens]
        self._hidden = tf.constant(self._turn(embedding[np.concatenate(tokens)])) if tokens else None

    def embedding(self, embedding: FloatArray) -> FloatArray:
        """The table whose rows are rotated hidden states: [V, hidden_size]."""
        return self._turn(embedding)

    def head(self, final_norm: FloatArray, head: FloatArray) -> FloatArray:
        """The head [V, hidden_size] that takes rotated states after a norm without gain."""
        return self._turn(head * final_norm)

    def no_gain(self) -> FloatArray:
        """The gain that replaces a norm's: ones, [hidden_size]."""
        return np.ones(self._config.hidden_size, np.float32)

    def layer(self, layer: LayerWeights[FloatArray]) -> LayerWeights[FloatArray]:
        """The next layer, rotated and scaled; advances the calibration's hidden states through it."""
        rotated = self._rotate(layer)
        if self._hidden is None:
            return rotated
        middle, inner = self._run(rotated)
        self._hidden = middle + decoder.linear(rotated.down, inner)
        scale = down_scale(inner, rotated.down, tf.norm(self._hidden, axis=1))
        return dataclasses.replace(
            rotated, up=(rotated.up / scale[:, None]).astype(np.float32), down=rotated.down * scale
        )

    def _rotate(self, layer: LayerWeights[FloatArray]) -> LayerWeights[FloatArray]:
        return LayerWeights(
            attention_norm=self.no_gain(),
            qkv=self._turn(layer.qkv * layer.attention_norm),
            attention_output=self._turn(layer.attention_output.T).T.copy(),
            mlp_norm=self.no_gain(),
            gate=self._turn(layer.gate * layer.mlp_norm),
            up=self._turn(layer.up * layer.mlp_norm),
            down=self._turn(layer.down.T).T.copy(),
        )

    def _run(self, layer: LayerWeights[FloatArray]) -> tuple[tf.Tensor, tf.Tensor]:
        """The hidden states after attention [N, hidden_size] and the input of down [N, intermediate_size]."""
        qkv = tf.split(decoder.attention_input(self._config, layer, self._hidden), self._lengths)
        mixed = [
            decoder.causal_attention(self._config, rows, tf.constant(1), tf.constant(length))
            for rows, length in zip(qkv, self._lengths, strict=True)
        ]
        hidden = self._hidden + decoder.linear(layer.attention_output, tf.concat(mixed, axis=0))
        return hidden, decoder.mlp_inner(self._config, layer, hidden)

    def _turn(self, rows: FloatArray) -> FloatArray:
        turned: FloatArray = tf.matmul(np.ascontiguousarray(rows), self._rotation).numpy()
        return turned


def orthogonal(size: int) -> FloatArray:
    """A fixed orthogonal matrix [size, size] that spreads every channel: DCT-II with random column signs."""
    index = np.arange(size)
    cosines = np.cos(np.pi / size * (index[None, :] + 0.5) * index[:, None]) * np.sqrt(2 / size)
    cosines[0] /= np.sqrt(2)
    signs = np.random.default_rng(1).integers(0, 2, size) * 2 - 1
    return np.asarray(cosines * signs, np.float32)


def down_scale(inner: tf.Tensor, down: FloatArray, norms: tf.Tensor) -> FloatArray:
    """Divisors of down's input channels that give the least int8 error of its output.

    An error counts relative to what the next norm divides by: so rows of massive activations, which only
    harm themselves, do not set the scales. The sign makes large values agree, as the range of an asymmetric
    format spans from the smallest to the largest.

    Args:
        inner: calibration inputs of down, [N, intermediate_size].
        down: its weights, [hidden_size, intermediate_size].
        norms: lengths of the hidden states after the layer, [N].

    Returns:
        [intermediate_size], none zero; ones where nothing is better.
    """
    weight = tf.constant(down)
    share = 1 / tf.maximum(norms, _TINY)[:, None]
    expected = decoder.linear(weight, inner)

    def error(scale: FloatArray) -> float:
        found = decoder.linear(_int8_weight(weight * scale), _int8_rows(inner / scale))
        return float(tf.reduce_mean(tf.square((found - expected) * share)))

    relative = (inner * share).numpy().astype(np.float64)
    sign = np.where((relative**3).sum(axis=0) < 0, -1.0, 1.0)
    size = _relative(np.sqrt((relative**2).mean(axis=0)))
    weight_size = _relative(np.sqrt((down.astype(np.float64) ** 2).sum(axis=0)))
    scales = [sign * size**alpha / weight_size**beta for alpha, beta in _EXPONENTS]
    candidates = [np.ones(len(sign), np.float32), *(scale.astype(np.float32) for scale in scales)]
    return min(candidates, key=error)


def _relative(sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sizes over their mean, never near zero."""
    return sizes / max(float(sizes.mean()), _TINY) + _SMALLEST


def _int8_rows(rows: tf.Tensor) -> tf.Tensor:
    """What is left of activations: one scale and zero point per row, as XNNPACK's qd8."""
    low = tf.minimum(tf.reduce_min(rows, axis=1, keepdims=True), 0.0)
    high = tf.maximum(tf.reduce_max(rows, axis=1, keepdims=True), 0.0)
    step = tf.maximum((high - low) / 255, _TINY)
    zero = tf.round(-128 - low / step)
    return (tf.clip_by_value(tf.round(rows / step + zero), -128, 127) - zero) * step


def _int8_weight(weight: tf.Tensor) -> tf.Tensor:
    """What is left of weights: one symmetric scale per output row."""
    step = tf.maximum(tf.reduce_max(tf.abs(weight), axis=1, keepdims=True) / 127, _TINY)
    return tf.round(weight / step) * step
