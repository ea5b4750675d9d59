"""Makes a decoder easy to quantise without changing what it computes: no activation channel stands out.

Serves the int8 CPU program, whose activations get one scale per row, so that one large channel costs all
others their precision. The residual stream is turned by an orthogonal matrix, which RMSNorm without a gain
does not notice (QuaRot, arXiv:2404.00456); LayerNorm becomes that RMSNorm where nothing that is added to the
stream has a mean (SliceGPT, arXiv:2401.15024). The input of a gated MLP's `down`, which no rotation reaches
for free, is scaled per channel through `up` (after SmoothQuant, arXiv:2211.10438).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cadenza.export import decoder
from cadenza.export.model import Affine, DecoderConfig, FloatArray, LayerWeights, Norm

_EXPONENTS = ((0.4, 0.0), (0.4, 0.5), (0.5, 0.0), (0.5, 0.25), (0.5, 0.5), (0.6, 0.5))
"""Tried per layer: powers of the activations' and the inverse weights' sizes."""
_BLOCK_ROWS = 4096
_SMALLEST = 1e-3
_TINY = 1e-30

Layer = LayerWeights[FloatArray]


class Smoother:
    """Turns a decoder's weights into equivalent ones, layer after layer in the decoder's order.

    Holds the calibration rows' hidden states between layers, never more than one layer's weights.
    """

    def __init__(
        self,
        config: DecoderConfig,
        embedding: FloatArray,
        positions: FloatArray | None,
        tokens: Sequence[Sequence[int]],
    ) -> None:
        """Takes the plain embedding [V, hidden_size], learned positions [max_context, hidden_size], and the
        calibration's sequences of token ids (none is empty; without any, layers are rotated but not scaled).
        """
        self.config = dataclasses.replace(config, norm=Norm.RMS)
        """Of the equivalent decoder."""
        self._centred = config.norm is Norm.LAYER
        self._rotation = orthogonal(config.hidden_size)
        self._lengths = [len(ids) for ids in tokens]
        self._hidden = self._embed(embedding, positions, tokens) if tokens else None

    def table(self, table: FloatArray) -> FloatArray:
        """The embedding or the positions, whose rows are hidden states, for the turned stream."""
        return self._turn(table, centred=self._centred)

    def final_norm_and_head(
        self, final_norm: Affine[FloatArray], head: Affine[FloatArray]
    ) -> tuple[Affine[FloatArray], Affine[FloatArray]]:
        """The last norm, without gain, and the head that takes its turned states."""
        return self._no_gain(), self._reader(final_norm, head)

    def layer(self, layer: Layer) -> Layer:
        """The next layer, rotated and scaled; advances the calibration's hidden states through it."""
        rotated = self._rotate(layer)
        if self._hidden is None:
            return rotated
        middle, inner = self._run(rotated)
        self._hidden = middle + decoder.linear(rotated.down, inner)
        if rotated.gate is None:
            return rotated
        scale = down_scale(inner, rotated.down.weight, tf.norm(self._hidden, axis=1))
        up = Affine(
            (rotated.up.weight / scale[:, None]).astype(np.float32),
            None if rotated.up.bias is None else (rotated.up.bias / scale).astype(np.float32),
        )
        return dataclasses.replace(
            rotated, up=up, down=Affine(rotated.down.weight * scale, rotated.down.bias)
        )

    def _rotate(self, layer: Layer) -> Layer:
        gate = None if layer.gate is None else self._reader(layer.mlp_norm, layer.gate)
        return dataclasses.replace(
            layer,
            attention_norm=self._no_gain(),
            qkv=self._reader(layer.attention_norm, layer.qkv),
            attention_output=self._writer(layer.attention_output),
            mlp_norm=self._no_gain(),
            gate=gate,
            up=self._reader(layer.mlp_norm, layer.up),
            down=self._writer(layer.down),
        )

    def _reader(self, norm: Affine[FloatArray], linear: Affine[FloatArray]) -> Affine[FloatArray]:
        """A linear layer that reads the stream, with the norm's gain and bias before it folded in."""
        bias = linear.bias
        if norm.bias is not None:
            folded = linear.weight @ norm.bias
            bias = folded if bias is None else bias + folded
        return Affine(self._turn(linear.weight, gain=norm.weight), bias)

    def _writer(self, linear: Affine[FloatArray]) -> Affine[FloatArray]:
        """A linear layer that adds to the stream."""
        bias = None if linear.bias is None else self.table(linear.bias[None])[0]
        return Affine(self.table(linear.weight.T).T.copy(), bias)

    def _no_gain(self) -> Affine[FloatArray]:
        return Affine(np.ones(self.config.hidden_size, np.float32))

    def _embed(
        self, embedding: FloatArray, positions: FloatArray | None, tokens: Sequence[Sequence[int]]
    ) -> tf.Tensor:
        rows = embedding[np.concatenate(tokens)]
        if positions is not None:
            rows = rows + positions[np.concatenate([np.arange(length) for length in self._lengths])]
        return tf.constant(self.table(rows))

    def _run(self, layer: Layer) -> tuple[tf.Tensor, tf.Tensor]:
        """The hidden states after attention [N, hidden_size] and the input of down [N, intermediate_size]."""
        qkv = tf.split(decoder.attention_input(self.config, layer, self._hidden), self._lengths)
        mixed = [
            decoder.causal_attention(self.config, rows, tf.constant(1), tf.constant(length))
            for rows, length in zip(qkv, self._lengths, strict=True)
        ]
        hidden = self._hidden + decoder.linear(layer.attention_output, tf.concat(mixed, axis=0))
        read = self._hidden if self.config.parallel_residual else hidden
        return hidden, decoder.mlp_inner(self.config, layer, read)

    def _turn(self, rows: FloatArray, *, gain: FloatArray | None = None, centred: bool = False) -> FloatArray:
        """Rows times the gain, or less their means, turned: block by block, as tables are large."""
        turned = np.empty(rows.shape, np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = rows[start : start + _BLOCK_ROWS]
            if gain is not None:
                block = block * gain
            if centred:
                block = block - block.mean(axis=1, keepdims=True, dtype=np.float64)
            turned[start : start + _BLOCK_ROWS] = tf.matmul(block.astype(np.float32), self._rotation)
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
    share = 1 / tf.maximum(norms, _TINY)[:, None]
    expected = decoder.linear(Affine(down), inner)

    def error(scale: FloatArray) -> float:
        found = decoder.linear(Affine(_int8_weight(down * scale)), _int8_rows(inner / scale))
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
