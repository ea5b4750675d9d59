"""Conversations to prompts, by the artifact's chat template in a sandbox.

The template comes with the model and the messages from callers, so neither is trusted with more than text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cadenza.server.errors import ArtifactError, InvalidRequestError, Reason


class ChatTemplate:
    """A compiled chat template in the Jinja dialect of Hugging Face tokenizers."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` (bos_token, eos_token) are variables of the template.

        Raises ArtifactError where the source does not compile.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
            extensions=["jinja2.ext.loopcontrols"],
            autoescape=False,  # the result is a prompt, not a page
        )
        environment.globals["raise_exception"] = _raise_exception
        environment.filters["tojson"] = _to_json
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ArtifactError(
                f"the chat template does not compile: line {error.lineno}: {error}"
            ) from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that asks the model for the next assistant message.

        Raises InvalidRequestError (CHAT_TEMPLATE_FAILED) with what the template says.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except Exception as error:
            raise InvalidRequestError(
                Reason.CHAT_TEMPLATE_FAILED,
                "prompt.chat",
                f"the model's chat template does not take these messages: {error}",
            ) from error


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    """Plain JSON; Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
