"""POST /v1/completions: texts or token ids to complete."""

from collections.abc import Sequence
from typing import Any

from cadenza.server.engine.request import Progress
from cadenza.server.http.batch import Submitted
from cadenza.server.http.bodies import CompletionBody
from cadenza.server.http.calls import Incoming
from cadenza.server.http.generation import Work, find_model, generate, read_body
from cadenza.server.http.logprobs import CompletionLogprobs, joined
from cadenza.server.http.parameters import completion_parameters
from cadenza.server.http.sending import Answer
from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.rpc.reply import Echo
from cadenza.server.tokenizer import Tokenizer
from cadenza.v1 import completion_pb2 as pb


class Completions:
    """Answers from the models of a table."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models

    async def respond(self, incoming: Incoming, answer: Answer) -> None:
        """Answers one call. Raises RequestError."""
        body = read_body(incoming, CompletionBody)
        prompts = _prompts(body)
        parameters = completion_parameters(body)
        model = find_model(incoming, body, self._models)

        def make_writer(model: ServedModel, submitted: Sequence[Submitted]) -> _Writer:
            has_bos = prompts[0].HasField("text") and model.artifact.manifest.tokenizer.add_bos_token
            echoes = [Echo(one.prompt_token_ids, has_bos=has_bos) for one in submitted]
            return _Writer(model.tokenizer, echoes if body.echo else None, logprobs=body.logprobs is not None)

        await generate(incoming, answer, body, model, Work(prompts, parameters, make_writer))


def _prompts(body: CompletionBody) -> list[pb.Prompt]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [pb.Prompt(text=prompt)]
    if isinstance(prompt[0], int):
        return [pb.Prompt(token_ids=pb.TokenIds(ids=prompt))]
    return [
        pb.Prompt(text=one) if isinstance(one, str) else pb.Prompt(token_ids=pb.TokenIds(ids=one))
        for one in prompt
    ]


class _Writer:
    """Choices as texts."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    piece_object = "text_completion"

    def __init__(self, tokenizer: Tokenizer, echoes: Sequence[Echo] | None, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._echoes = echoes
        self._has_logprobs = logprobs
        self._logprobs: dict[tuple[int, int], CompletionLogprobs] = {}
        """By prompt and choice, of those that have begun."""
        self._of_prompts: dict[int, list[Any]] = {}
        """The prompts' own, which come with choice 0 and are every choice's."""

    def whole(self, prompt: int, progress: Progress) -> dict[str, Any]:
        """A choice from its first token to its last."""
        return self.piece(prompt, progress)

    def piece(self, prompt: int, progress: Progress) -> dict[str, Any]:
        """What is new of a choice."""
        key = prompt, progress.choice
        begins = key not in self._logprobs
        if begins:
            self._logprobs[key] = CompletionLogprobs(self._tokenizer)
        echo = self._echoes[prompt] if self._echoes and begins else None
        text = echo.text(self._tokenizer) + progress.text if echo else progress.text
        return {"text": text, "logprobs": self._new_logprobs(prompt, progress, echo)}

    def _new_logprobs(self, prompt: int, progress: Progress, echo: Echo | None) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        own = self._logprobs[prompt, progress.choice]
        if echo is None:
            return own.generated(progress.logprobs)
        if progress.choice == 0:
            self._of_prompts[prompt] = list(progress.prompt_logprobs)
        ids = echo.prompt_token_ids[echo.has_bos :]
        known = self._of_prompts[prompt][-len(ids) :]
        return joined(own.echoed(ids, known), own.generated(progress.logprobs))
