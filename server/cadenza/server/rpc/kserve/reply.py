"""One request's answer as responses of the protocol: whole, or in pieces."""

import json
from collections.abc import Callable, Mapping, Sequence

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.engine.request import Finished, FinishReason, Progress, TokenLogprob
from cadenza.server.errors import RequestError
from cadenza.server.models import ServedModel
from cadenza.server.rpc.finite import finite
from cadenza.server.rpc.kserve.inputs import Inputs
from cadenza.server.rpc.kserve.signature import OUTPUTS
from cadenza.server.rpc.kserve.tensors import Values, add_output
from cadenza.server.rpc.reply import summary
from cadenza.server.streams import Part

FINAL = "triton_final_response"
"""The parameter of a streamed response that tells whether it is its request's last."""

_UNFINISHED = "None"
"""As Triton's vLLM backend writes it."""


class Reply:
    """Writes the responses to one request, in order."""

    def __init__(self, request_id: str, model: ServedModel, inputs: Inputs, prompt_tokens: int) -> None:
        """`request_id` is the one that the request gives itself, maybe none."""
        self._id = request_id
        self._model = model
        self._inputs = inputs
        self._prompt_tokens = prompt_tokens
        self._choices = inputs.parameters.n or 1
        self._begun = False
        self._reasons: dict[int, FinishReason] = {}
        self._cumulative = [0.0] * self._choices
        self._writers: Mapping[str, Callable[[Sequence[Progress]], Values]] = {
            "text_output": self._texts,
            "finish_reason": self._finish_reasons,
            "cumulative_logprob": self._cumulative_logprobs,
            "logprobs": self._logprobs,
            "num_input_tokens": lambda _: [self._prompt_tokens],
            "num_output_tokens": lambda choices: [len(one.token_ids) for one in choices],
        }

    def response(self, part: Part) -> oip.ModelInferResponse:
        """All that is new; every choice has its element in every response."""
        news = {progress.choice: progress for progress in part.choices}
        choices = [news.get(choice, Progress("", choice, (), "")) for choice in range(self._choices)]
        self._note(choices)
        response = oip.ModelInferResponse(
            model_name=self._model.name, model_version=str(self._model.version), id=self._id
        )
        for spec in OUTPUTS:
            if spec.name in self._inputs.outputs:
                values = self._writers[spec.name](choices)
                add_output(response, spec.name, spec.datatype, values, raw=self._inputs.raw)
        return response

    def streamed(self, part: Part) -> oip.ModelStreamInferResponse:
        """As `response`, for a stream."""
        response = self.response(part)
        response.parameters[FINAL].bool_param = part.finished is not None
        return oip.ModelStreamInferResponse(infer_response=response)

    def log(self, finished: Finished) -> dict[str, object]:
        """What the log line says once the request has ended."""
        return summary([finished], [reason for _, reason in sorted(self._reasons.items())])

    def _note(self, choices: Sequence[Progress]) -> None:
        for progress in choices:
            if progress.finish_reason is not None:
                self._reasons[progress.choice] = progress.finish_reason
            self._cumulative[progress.choice] += sum(one.logprob for one in progress.logprobs)

    def _texts(self, choices: Sequence[Progress]) -> list[bytes]:
        before = self._inputs.text if self._inputs.repeats_text and not self._begun else ""
        self._begun = True
        return [(before + one.text).encode() for one in choices]

    def _finish_reasons(self, choices: Sequence[Progress]) -> list[bytes]:
        return [_finish_reason(self._reasons.get(one.choice)).encode() for one in choices]

    def _cumulative_logprobs(self, _choices: Sequence[Progress]) -> list[float]:
        return list(self._cumulative)

    def _logprobs(self, choices: Sequence[Progress]) -> list[bytes]:
        """A JSON list for each choice, an object by token id for each of its tokens."""
        if not self._inputs.parameters.HasField("logprobs"):
            return [b"null"] * len(choices)
        return [json.dumps([self._token(one) for one in choice.logprobs]).encode() for choice in choices]

    def _token(self, one: TokenLogprob) -> dict[str, dict[str, object]]:
        """The alternatives by rank, and the chosen token; its rank is not known where it is none of them."""
        ranked = {token_id: (rank, logprob) for rank, (token_id, logprob) in enumerate(one.alternatives, 1)}
        found = {**ranked, one.token_id: ranked.get(one.token_id, (None, one.logprob))}
        return {
            str(token_id): {
                "logprob": finite(logprob),
                "rank": rank,
                "decoded_token": self._model.tokenizer.decode((token_id,)),
            }
            for token_id, (rank, logprob) in found.items()
        }


def refusal(request_id: str, error: RequestError) -> oip.ModelStreamInferResponse:
    """What a stream carries in place of a response; programs find the error's code and reason beside it."""
    response = oip.ModelInferResponse(id=request_id)
    response.parameters[FINAL].bool_param = True
    response.parameters["error_code"].string_param = error.code
    response.parameters["error_reason"].string_param = error.reason.value
    return oip.ModelStreamInferResponse(error_message=error.message, infer_response=response)


def _finish_reason(reason: FinishReason | None) -> str:
    """vLLM has no word of its own for tokens that stop."""
    if reason is None:
        return _UNFINISHED
    return "length" if reason is FinishReason.LENGTH else "stop"
