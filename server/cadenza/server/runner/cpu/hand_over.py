"""Between the engine's batch and the kernels' memory: a batch is written into it, a result read from it."""

import struct
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cadenza.server.engine.request import SamplingParams, TokenLogprob
from cadenza.server.runner.base import NO_TOKEN, NOT_FINITE, SequenceSlice, StepBatch, StepResult
from cadenza.server.runner.checks import check_alternatives, check_biases, check_history, check_token_ids
from cadenza.server.runner.cpu.memory import HEAD_ROW, NO_LOGPROB, StepMemory

_HeadRow = tuple[int | float, ...]
"""The fields of HEAD_ROW, in its order."""
_HEAD_ROW = struct.Struct("@" + "".join(HEAD_ROW[name].char for name in HEAD_ROW.names or ()))
"""The same bytes as HEAD_ROW's, in a fifth of the time that NumPy takes."""
_BiasPairs = tuple[tuple[int, float], ...]
_NOT_SAMPLED = (0.0, 0, 1.0, 0.0, 0, 0)
_NO_PENALTIES = (1.0, 0.0, 0.0, 0, 0, 0)
_NO_BIASES = (0, 0)


class HandOver:
    """Fills a step's memory and reads it.

    Integers that come as array("i") are copied whole. Short copies go through memoryviews, which take a tenth
    of the time that NumPy takes for a handful of numbers.
    """

    def __init__(self, step: StepMemory, vocabulary: int) -> None:
        self._step = step
        self._vocabulary = vocabulary
        self._token_ids, self._slice_of_row = step.token_ids.data, step.slice_of_row.data
        self._positions, self._places = step.positions.data, step.place_in_slice.data
        self._heads = step.heads.view(np.uint8).data
        self._tables = [table.data for table in step.tables]
        self._history = step.history.data
        self._num_heads = 0
        self._history_end = 0
        self._bias_end = 0
        self._biases = _BiasArrays(vocabulary)

    def fill(self, batch: StepBatch) -> tuple[int, int]:
        """Writes the batch into the step's memory; returns its rows and its head rows. Raises ValueError."""
        row = 0
        token_ids, slice_of_row, positions, places = array("i"), array("i"), array("i"), array("i")
        heads: list[_HeadRow] = []
        self._history_end = self._bias_end = 0
        self._biases.begin()
        for index, part in enumerate(batch.slices):
            begin, row = row, row + len(part.token_ids)
            token_ids.extend(part.token_ids)
            slice_of_row.extend([index] * len(part.token_ids))
            positions.extend(range(part.start, part.start + len(part.token_ids)))
            places.extend(range(len(part.token_ids)))
            self._tables[index][: len(part.block_table)] = _packed(part.block_table)
            if part.targets:
                heads += self._target_rows(part, begin)
            if part.sampling is not None:
                heads += self._sampled_rows(part, part.sampling, row - 1)
        self._token_ids[:row] = token_ids
        self._slice_of_row[:row] = slice_of_row
        self._positions[:row] = positions
        self._places[:row] = places
        for index, head in enumerate(heads):
            _HEAD_ROW.pack_into(self._heads, index * _HEAD_ROW.size, *head)
        self._num_heads = len(heads)
        return row, len(heads)

    def result(self, batch: StepBatch) -> StepResult:
        """What the kernels have left for this batch, which was filled in last."""
        chosen = self._step.chosen[: self._num_heads].tolist()
        token_ids: list[int] = []
        logprobs: dict[int, list[TokenLogprob]] = {}
        accepted: dict[int, int] = {}
        end = 0
        for index, part in enumerate(batch.slices):
            begin, end = end, end + _num_heads(part)
            heads = range(begin, end)
            if part.num_drafts:
                accepted[index] = part.num_accepted(chosen[begin:end])
                heads = heads[: accepted[index] + 1]
            token_id = chosen[heads[-1]] if part.sampling is not None else NO_TOKEN
            if NOT_FINITE in chosen[begin : heads.stop]:
                token_id, heads = NOT_FINITE, heads[: accepted.get(index, 0)]
            token_ids.append(token_id)
            own = part.sampling is not None and part.sampling.logprobs is not None
            told = heads if own else heads[: len(part.targets)]
            if told:
                logprobs[index] = [self._logprob(head, chosen[head]) for head in told]
        return StepResult(token_ids, logprobs, accepted)

    def _target_rows(self, part: SequenceSlice, row: int) -> list[_HeadRow]:
        check_token_ids("targets", part.targets, self._vocabulary)
        rest = (check_alternatives(part.target_alternatives), *_NOT_SAMPLED, *_NO_PENALTIES, *_NO_BIASES)
        return [(row + offset, target, *rest) for offset, target in enumerate(part.targets)]

    def _sampled_rows(self, part: SequenceSlice, sampling: SamplingParams, last: int) -> list[_HeadRow]:
        """A row for each draft and one for the token behind them; the last stands at `last`."""
        draw = (
            NO_TOKEN,
            NO_LOGPROB if sampling.logprobs is None else check_alternatives(sampling.logprobs),
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            sampling.choice,
            sampling.seed,
        )
        *penalties, end = self._penalties(part, sampling) if sampling.needs_history else _NO_PENALTIES
        biases = self._bias_range(sampling.logit_bias) if sampling.logit_bias else _NO_BIASES
        return [
            (last - behind, *draw, *penalties, max(0, end - behind), *biases)
            for behind in range(part.num_drafts, -1, -1)
        ]

    def _penalties(self, part: SequenceSlice, sampling: SamplingParams) -> _HeadRow:
        """Those of the slice's last token, whose history is the longest."""
        length = check_history(part)
        begin, end = self._history_end, self._history_end + length
        self._history[begin:end] = _packed(part.history)
        self._history_end = end
        penalties = sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty
        return (*penalties, begin, begin + part.prompt_length, end)

    def _bias_range(self, pairs: _BiasPairs) -> tuple[int, int]:
        token_ids, values = self._biases.get(pairs)
        begin, end = self._bias_end, self._bias_end + len(token_ids)
        self._step.bias_ids[begin:end] = token_ids
        self._step.bias_values[begin:end] = values
        self._bias_end = end
        return begin, end

    def _logprob(self, head: int, token_id: int) -> TokenLogprob:
        count = int(self._step.heads["alternatives"][head])
        token_ids = self._step.alternative_ids[head, :count].tolist()
        values = self._step.alternative_logprobs[head, :count].tolist()
        pairs = zip(token_ids, values, strict=True)
        alternatives = tuple(pair for pair in pairs if pair[0] != NO_TOKEN)
        return TokenLogprob(token_id, float(self._step.logprobs[head]), alternatives)


class _BiasArrays:
    """Biases as arrays, made once for as long as their request is in every batch.

    Goes by the identity of the tuple, which the choices of a request share, and holds on to it.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._known: dict[int, tuple[_BiasPairs, NDArray[np.int32], NDArray[np.float32]]] = {}
        self._last = self._known

    def begin(self) -> None:
        """A new batch: what the last one did not use is forgotten."""
        self._last, self._known = self._known, {}

    def get(self, pairs: _BiasPairs) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Token ids and what is added to their logits. Raises ValueError."""
        key = id(pairs)
        entry = self._known.get(key) or self._last.get(key) or self._make(pairs)
        self._known[key] = entry
        return entry[1:]

    def _make(self, pairs: _BiasPairs) -> tuple[_BiasPairs, NDArray[np.int32], NDArray[np.float32]]:
        check_biases(pairs, self._vocabulary)
        token_ids, values = zip(*pairs, strict=True)
        return pairs, np.array(token_ids, np.int32), np.array(values, np.float32)


def _num_heads(part: SequenceSlice) -> int:
    return len(part.targets) + (0 if part.sampling is None else part.num_drafts + 1)


def _packed(values: Sequence[int]) -> "array[int]":
    return values if isinstance(values, array) else array("i", values)
