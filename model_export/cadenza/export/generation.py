"""Generation in the graph: a KV cache and a loop over a ragged batch, in plain TensorFlow operations.

Serves those who run the SavedModel with nothing but TensorFlow: one call takes a batch from prompts to
completions. The server does not come through here, but chooses the same tokens from the same logits.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from cadenza.export import decoder, sampling
from cadenza.export.decoder import Cache, LayerCache
from cadenza.export.model import DecoderConfig, DecoderWeights, LayerWeights, named
from cadenza.export.sampling import SamplingInputs

PREFILL_CHUNK = 256
"""Prompt tokens that go through the decoder at once, at most: it bounds the memory that attention takes."""

_VISIBLE = tf.TensorSpec([None, None, None], tf.bool)

State = tuple[tf.Tensor, ...]
Named = Mapping[str, tf.Tensor]


class Generated(NamedTuple):
    """What a batch of prompts was continued with."""

    token_ids: tf.Tensor
    """int32 [B, N]; behind a row's count, zeros. An end token that was generated is among them."""
    count: tf.Tensor
    """int32 [B]."""
    ended: tf.Tensor
    """bool [B]: whether the row's last token is an end token."""


class Generator(tf.Module):
    """A decoder with its weights, as it is called on batches of padded token ids."""

    def __init__(
        self, config: DecoderConfig, weights: DecoderWeights[tf.Variable], end_token_ids: Sequence[int]
    ) -> None:
        super().__init__(name="generator")
        self._config = config
        self._structure = weights
        self._tracked = list(weights.leaves())  # TensorFlow saves what attributes hold, not dataclasses
        self._end_token_ids = list(end_token_ids)
        self._extend_layer = tf.function(
            self._traced_layer, input_signature=self._layer_specification(), autograph=False
        )
        self._extend = tf.function(self._traced, input_signature=self._specification(), autograph=False)
        row, whole = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, None], tf.int32)
        chosen_by = SamplingInputs(
            temperature=tf.TensorSpec([None], tf.float32),
            top_k=row,
            top_p=tf.TensorSpec([None], tf.float32),
            seed=tf.TensorSpec([None], tf.int64),
        )
        self._generate = tf.function(
            self._generated, input_signature=[whole, row, row, chosen_by], autograph=False
        )

    def logits(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Token ids int32 [B, T] -> next-token logits float32 [B, T, V]."""
        weights = self._float32()
        advance = functools.partial(self._extend, weights)
        return decoder.logits(self._config, self._rebuilt(weights), token_ids, advance)

    def score(self, token_ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Log-probabilities of each token given those before it.

        Args:
            token_ids: int32 [B, T], padded.
            lengths: int32 [B], from 1 to T.

        Returns:
            float32 [B, T]; zero for a row's first token, which nothing predicts, and behind its length.
        """
        weights = self._float32()
        whole = self._rebuilt(weights)
        following = tf.pad(token_ids[:, 1:], [[0, 0], [0, 1]])

        def fold(state: State, hidden: tf.Tensor, first: tf.Tensor) -> State:
            batch, length = tf.unstack(tf.shape(hidden)[:2])
            rows = decoder.head(self._config, whole, tf.reshape(hidden, [batch * length, -1]))
            targets = _columns(following, first, length)
            chosen = tf.gather(rows, tf.reshape(targets, [-1]), batch_dims=1) - tf.reduce_logsumexp(rows, -1)
            return (tf.concat([state[0], tf.reshape(chosen, [batch, length])], 1),)

        nothing = (tf.zeros([tf.shape(token_ids)[0], 0]),)
        shapes = (tf.TensorShape([None, None]),)
        (found,), _ = self._read(weights, token_ids, lengths, nothing, shapes, fold)
        width = tf.shape(token_ids)[1]
        shifted = tf.pad(found[:, : tf.maximum(width - 1, 0)], [[0, 0], [1, 0]])[:, :width]
        return tf.where(tf.sequence_mask(lengths, width), shifted, 0.0)

    def generate(
        self, token_ids: tf.Tensor, lengths: tf.Tensor, max_tokens: tf.Tensor, chosen_by: SamplingInputs
    ) -> Generated:
        """Continues every prompt until its end token or its number of tokens.

        Args:
            token_ids: int32 [B, T], padded.
            lengths: int32 [B], from 1 to T.
            max_tokens: int32 [B], at least 1; with the prompt at most the context.
            chosen_by: how tokens are chosen.
        """
        result: Generated = self._generate(token_ids, lengths, max_tokens, chosen_by)
        return result

    def _generated(
        self, token_ids: tf.Tensor, lengths: tf.Tensor, max_tokens: tf.Tensor, chosen_by: SamplingInputs
    ) -> Generated:
        """`generate`, once in the graph for all who call it."""
        weights = self._float32()
        whole = self._rebuilt(weights)
        hidden, cache = self._prefill(weights, token_ids, lengths)
        prompt_columns = tf.shape(cache[0].keys)[2]

        def choose(hidden: tf.Tensor, generated: tf.Tensor) -> tf.Tensor:
            rows = decoder.head(self._config, whole, hidden)
            return sampling.choose(rows, chosen_by, lengths + tf.shape(generated)[1])

        def goes_on(_generated: tf.Tensor, _count: tf.Tensor, done: tf.Tensor, _cache: Cache) -> tf.Tensor:
            return tf.reduce_any(~done)

        def step(
            generated: tf.Tensor, count: tf.Tensor, done: tf.Tensor, cache: Cache
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, Cache]:
            columns = tf.range(tf.shape(cache[0].keys)[2] + 1)[None]
            visible = (columns < lengths[:, None]) | (columns >= prompt_columns)
            positions = self._within_context(lengths + tf.shape(generated)[1] - 1)[:, None]
            hidden, longer = self._extend(weights, cache, generated[:, -1:], positions, visible[:, None])
            token = tf.where(done, 0, choose(hidden, generated))
            count += tf.cast(~done, tf.int32)
            done |= self._is_end(token) | (count >= max_tokens)
            return tf.concat([generated, token[:, None]], 1), count, done, longer

        first = choose(hidden, tf.zeros([tf.shape(token_ids)[0], 0], tf.int32))
        count = tf.ones_like(first)
        generated, count, _, _ = tf.while_loop(
            goes_on,
            step,
            (first[:, None], count, self._is_end(first) | (count >= max_tokens), cache),
            shape_invariants=(
                tf.TensorShape([None, None]),
                tf.TensorShape([None]),
                tf.TensorShape([None]),
                self._cache_shape(),
            ),
            parallel_iterations=1,
        )
        last = tf.gather(generated, count - 1, batch_dims=1)
        return Generated(generated, count, self._is_end(last))

    def _prefill(self, weights: Named, token_ids: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """Hidden states of each prompt's last token [B, hidden_size], and the prompts' cache."""

        def fold(state: State, hidden: tf.Tensor, first: tf.Tensor) -> State:
            column = lengths - 1 - first
            length = tf.shape(hidden)[1]
            rows = tf.gather(hidden, tf.clip_by_value(column, 0, length - 1), batch_dims=1)
            return (tf.where(((column >= 0) & (column < length))[:, None], rows, state[0]),)

        start = (tf.zeros([tf.shape(token_ids)[0], self._config.hidden_size]),)
        shapes = (tf.TensorShape([None, self._config.hidden_size]),)
        (last,), cache = self._read(weights, token_ids, lengths, start, shapes, fold)
        return last, cache

    def _read(
        self,
        weights: Named,
        token_ids: tf.Tensor,
        lengths: tf.Tensor,
        start: State,
        shapes: tuple[tf.TensorShape, ...],
        fold: Callable[[State, tf.Tensor, tf.Tensor], State],
    ) -> tuple[State, Cache]:
        """Reads prompts chunk by chunk; `fold` takes the hidden states [B, chunk, hidden_size] of each, and
        its first column, into a state. Returns the last state, and the cache of all columns.
        """
        batch, length = tf.unstack(tf.shape(token_ids))
        count = tf.maximum((length + PREFILL_CHUNK - 1) // PREFILL_CHUNK, 1)
        chunk = tf.maximum((length + count - 1) // count, 1)
        padded = tf.pad(token_ids, [[0, 0], [0, chunk * count - length]])

        def goes_on(index: tf.Tensor, _state: State, _cache: Cache) -> tf.Tensor:
            return index < count

        def body(index: tf.Tensor, state: State, cache: Cache) -> tuple[tf.Tensor, State, Cache]:
            first = index * chunk
            positions = first + tf.range(chunk)
            columns = tf.range(first + chunk)[None, None]
            visible = (columns <= positions[None, :, None]) & (columns < lengths[:, None, None])
            everywhere = tf.tile(self._within_context(positions)[None], [batch, 1])
            here = _columns(padded, first, chunk)
            hidden, longer = self._extend(weights, cache, here, everywhere, visible)
            rows = tf.reshape(hidden, [batch, chunk, self._config.hidden_size])
            return index + 1, fold(state, rows, first), longer

        _, state, cache = tf.while_loop(
            goes_on,
            body,
            (tf.constant(0), start, decoder.empty_cache(self._config, batch)),
            shape_invariants=(tf.TensorShape([]), shapes, self._cache_shape()),
            parallel_iterations=1,
        )
        return state, cache

    def _traced(
        self,
        weights: Named,
        cache: Cache,
        token_ids: tf.Tensor,
        positions: tf.Tensor,
        visible: tf.Tensor,
    ) -> tuple[tf.Tensor, Cache]:
        """decoder.extend, once in the graph for all who call it."""
        rebuilt = self._rebuilt(weights)
        return decoder.extend(
            self._config, rebuilt, cache, token_ids, positions, visible, self._through_layer
        )

    def _through_layer(
        self,
        layer: LayerWeights[tf.Tensor],
        before: LayerCache,
        hidden: tf.Tensor,
        positions: tf.Tensor,
        visible: tf.Tensor,
    ) -> tuple[tf.Tensor, LayerCache]:
        extended: tuple[tf.Tensor, LayerCache] = self._extend_layer(
            named(layer), before, hidden, positions, visible
        )
        return extended

    def _traced_layer(
        self,
        weights: Named,
        before: LayerCache,
        hidden: tf.Tensor,
        positions: tf.Tensor,
        visible: tf.Tensor,
    ) -> tuple[tf.Tensor, LayerCache]:
        """decoder.extend_layer, once in the graph for all layers: their shapes are the same."""
        layer = self._structure.layers[0].map(lambda name, _: weights[name])
        return decoder.extend_layer(self._config, layer, before, hidden, positions, visible)

    def _specification(self) -> list[object]:
        cache = (self._cache_specification(),) * self._config.num_layers
        whole = tf.TensorSpec([None, None], tf.int32)
        return [_float32_specification(self._structure), cache, whole, whole, _VISIBLE]

    def _layer_specification(self) -> list[object]:
        hidden = tf.TensorSpec([None, self._config.hidden_size])
        positions = tf.TensorSpec([None, None], tf.int32)
        weights = _float32_specification(self._structure.layers[0])
        return [weights, self._cache_specification(), hidden, positions, _VISIBLE]

    def _cache_specification(self) -> LayerCache:
        shape = tf.TensorSpec([None, self._config.num_kv_heads, None, self._config.head_dim])
        return LayerCache(shape, shape)

    def _float32(self) -> Named:
        """The weights by name, read (and widened) outside of all loops."""
        return {name: tf.cast(variable, tf.float32) for name, variable in named(self._structure).items()}

    def _rebuilt(self, weights: Named) -> DecoderWeights[tf.Tensor]:
        return self._structure.map(lambda name, _: weights[name])

    def _cache_shape(self) -> tuple[LayerCache, ...]:
        shape = tf.TensorShape([None, self._config.num_kv_heads, None, self._config.head_dim])
        return (LayerCache(shape, shape),) * self._config.num_layers

    def _within_context(self, positions: tf.Tensor) -> tf.Tensor:
        """Positions of padding are no matter, but must exist."""
        return tf.minimum(positions, self._config.max_context - 1)

    def _is_end(self, token_ids: tf.Tensor) -> tf.Tensor:
        ends = tf.constant(self._end_token_ids, tf.int32)
        return tf.reduce_any(token_ids[:, None] == ends[None], axis=1)


def _float32_specification(
    weights: DecoderWeights[tf.Variable] | LayerWeights[tf.Variable],
) -> Mapping[str, tf.TensorSpec]:
    variables = named(weights).items()
    return {name: tf.TensorSpec(variable.shape, tf.float32, name) for name, variable in variables}


def _columns(table: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """`count` columns of [B, T] from `first` on; zeros behind the last."""
    padded = tf.pad(table, [[0, 0], [0, count]])
    return padded[:, first : first + count]
