"""What each signature does on this server: completions by the engine, the rest by the model's tokenizer.

Names, number formats and dimensions of inputs and outputs are those of the SavedModel's signatures; inputs
have been held against them before they come here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np

from cadenza.server.admission import Arrival
from cadenza.server.engine.request import FinishReason
from cadenza.server.models import ServedModel
from cadenza.server.rpc.call import current_call
from cadenza.server.rpc.prompt import check_token_id
from cadenza.server.rpc.tfserving.errors import NotServedError, invalid, name_set
from cadenza.server.rpc.tfserving.rows import Completed, Row, complete
from cadenza.server.rpc.tfserving.tensors import Array, padded, strings
from cadenza.v1 import completion_pb2 as pb

_UINT64 = 2**64

Inputs = Mapping[str, Array]
Outputs = dict[str, Array]
_Run = Callable[[ServedModel, Inputs, Arrival], Awaitable[Outputs]]


def find_run(signature: str) -> _Run:
    """What answers a signature; it raises RequestError, and TensorError for outputs that are too large.

    Raises NotServedError for signatures that only the SavedModel itself answers.
    """
    if signature not in _RUNS:
        raise NotServedError(
            f"signature {signature} is not served here, only {name_set(_RUNS)}: run the SavedModel by "
            "TensorFlow or TensorFlow Serving for it; log-probabilities are in score and CompletionService"
        )
    return _RUNS[signature]


async def _serving_default(model: ServedModel, inputs: Inputs, arrival: Arrival) -> Outputs:
    rows = [Row("prompt", prompt, pb.CompletionParameters(temperature=0)) for prompt in inputs["prompt"]]
    done = await _complete_rows(rows, model, arrival)
    return {"completion": _texts(done)}


async def _complete(model: ServedModel, inputs: Inputs, arrival: Arrival) -> Outputs:
    prompts, *_ = columns = [inputs[name].tolist() for name in ("prompt", *_PARAMETERS)]
    for name, column in zip(_PARAMETERS, columns[1:], strict=True):
        if len(column) != len(prompts):
            raise invalid(
                f"inputs[{name}]",
                f"{name} needs one value for each prompt: it has {len(column)} for {len(prompts)} prompts",
            )
    rows = [Row("prompt", prompt, _parameters(*values)) for prompt, *values in zip(*columns, strict=True)]
    done = await _complete_rows(rows, model, arrival)
    reasons = [one.progress.finish_reason for one in done]
    return {
        "completion": _texts(done),
        "token_ids": padded([one.progress.token_ids for one in done], np.int32),
        "token_count": np.array([len(one.progress.token_ids) for one in done], np.int32),
        "finish_reason": strings([b"length" if one is FinishReason.LENGTH else b"stop" for one in reasons]),
    }


async def _tokenize(model: ServedModel, inputs: Inputs, _arrival: Arrival) -> Outputs:
    texts = (text.decode(errors="replace") for text in inputs["text"])
    add_bos = model.artifact.manifest.tokenizer.add_bos_token
    rows = await model.tokenizer.encode_all(texts, add_bos=add_bos)
    return {"token_ids": padded(rows, np.int32), "length": _lengths(rows)}


async def _detokenize(model: ServedModel, inputs: Inputs, _arrival: Arrival) -> Outputs:
    token_ids, length = inputs["token_ids"], inputs["length"]
    _check_lengths(token_ids, length)
    _check_ids(token_ids, length, model)
    rows = (row[:count].tolist() for row, count in zip(token_ids, length, strict=True))
    texts = await asyncio.to_thread(lambda: [model.tokenizer.decode(row).encode() for row in rows])
    return {"text": strings(texts)}


async def _score(model: ServedModel, inputs: Inputs, arrival: Arrival) -> Outputs:
    """The engine judges prompts on the way to one token more, which nobody reads."""
    parameters = pb.CompletionParameters(max_tokens=1, temperature=0, echo=True, logprobs=0)
    rows = [Row("text", text, parameters) for text in inputs["text"]]
    done = await _complete_rows(rows, model, arrival)
    scores = [[0.0, *(one.logprob for one in row.progress.prompt_logprobs)] for row in done]
    return {"logprob": padded(scores, np.float32), "length": _lengths(scores)}


_RUNS: Mapping[str, _Run] = {
    "serving_default": _serving_default,
    "complete": _complete,
    "tokenize": _tokenize,
    "detokenize": _detokenize,
    "score": _score,
}
_PARAMETERS = ("max_tokens", "temperature", "top_k", "top_p", "seed")


def _parameters(
    max_tokens: int, temperature: float, top_k: int, top_p: float, seed: int
) -> pb.CompletionParameters:
    """The signature's seed is signed, the engine's has the same bits without a sign."""
    return pb.CompletionParameters(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed % _UINT64
    )


async def _complete_rows(rows: Sequence[Row], model: ServedModel, arrival: Arrival) -> list[Completed]:
    done = await complete(rows, model, arrival)
    current_call.get().log |= {
        "prompt_tokens": sum(one.finished.prompt_tokens for one in done),
        "completion_tokens": sum(one.finished.completion_tokens for one in done),
    }
    return done


def _texts(done: Sequence[Completed]) -> Array:
    return strings([one.progress.text.encode() for one in done])


def _lengths(rows: Sequence[Sequence[float]]) -> Array:
    return np.array([len(row) for row in rows], np.int32)


def _check_lengths(token_ids: Array, length: Array) -> None:
    rows, columns = token_ids.shape
    if len(length) != rows:
        raise invalid("inputs[length]", f"length needs one value a row: it has {len(length)} for {rows} rows")
    for row in np.flatnonzero((length < 0) | (length > columns)):
        raise invalid(
            f"inputs[length][{row}]",
            f"length[{row}] is {length[row]}; it must be from 0 to {columns}, the columns of token_ids",
        )


def _check_ids(token_ids: Array, length: Array, model: ServedModel) -> None:
    """Only what lies within the lengths counts."""
    size = model.artifact.manifest.decoder.vocabulary_size
    within = np.arange(token_ids.shape[1]) < length[:, None]
    for row, column in np.argwhere(within & ((token_ids < 0) | (token_ids >= size))):
        check_token_id(int(token_ids[row, column]), f"inputs[token_ids][{row}][{column}]", model)
