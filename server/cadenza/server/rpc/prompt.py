"""Prompts from the wire to token ids: text, token ids as they are, or a conversation."""

from collections.abc import Sequence

from cadenza.server.errors import InvalidRequestError, Reason, quote
from cadenza.server.models import ServedModel
from cadenza.v1 import completion_pb2 as pb

ROLES = ("system", "user", "assistant")


async def read_prompt(prompt: pb.Prompt, model: ServedModel, max_tokens: int | None) -> tuple[int, ...]:
    """The prompt's token ids, at least one and at most `max_tokens` (None: any number).

    Raises InvalidRequestError.
    """
    match prompt.WhichOneof("kind"):
        case "text":
            if not prompt.text:
                raise _empty("prompt.text", "give at least one character")
            token_ids = await _encode(prompt.text, "prompt.text", model, max_tokens)
        case "token_ids":
            token_ids = _check_ids(prompt.token_ids, model, max_tokens)
        case "chat":
            token_ids = await _encode(_render(prompt.chat, model), "prompt.chat", model, max_tokens)
        case _:
            raise InvalidRequestError(
                Reason.MISSING_FIELD, "prompt", "the prompt is missing; set one of text, token_ids and chat"
            )
    _check_length(len(token_ids), _path(prompt), max_tokens)
    return token_ids


def _path(prompt: pb.Prompt) -> str:
    return f"prompt.{prompt.WhichOneof('kind')}"


async def _encode(text: str, field: str, model: ServedModel, max_tokens: int | None) -> tuple[int, ...]:
    # A text that cannot fit is refused before it costs a second of tokenizing.
    _check_length(model.tokenizer.fewest_tokens(text), field, max_tokens, at_least=True)
    add_bos = field == "prompt.text" and model.artifact.manifest.tokenizer.add_bos_token
    token_ids = await model.tokenizer.encode(text, add_bos=add_bos)
    if not token_ids:
        raise _empty(field, "its text has no tokens")
    return token_ids


def _check_ids(prompt: pb.TokenIds, model: ServedModel, max_tokens: int | None) -> tuple[int, ...]:
    field, ids = "prompt.token_ids.ids", prompt.ids
    if not ids:
        raise _empty(field, "give at least one token id")
    _check_length(len(ids), field, max_tokens)
    check_token_ids(ids, field, model)
    return tuple(ids)


def check_token_ids(ids: Sequence[int], field: str, model: ServedModel) -> None:
    """Raises InvalidRequestError for the first id that the model does not have."""
    size = model.artifact.manifest.decoder.vocabulary_size
    for index, token_id in enumerate(ids):
        if not 0 <= token_id < size:
            check_token_id(token_id, f"{field}[{index}]", model)


def check_token_id(token_id: int, field: str, model: ServedModel) -> None:
    """Raises InvalidRequestError for an id that the model does not have."""
    size = model.artifact.manifest.decoder.vocabulary_size
    if not 0 <= token_id < size:
        raise InvalidRequestError(
            Reason.INVALID_TOKEN_ID,
            field,
            f"{field} is {token_id}; token ids of {model.name} are 0 to {size - 1}",
            metadata={"value": str(token_id), "minimum": "0", "maximum": str(size - 1)},
        )


def _render(chat: pb.Chat, model: ServedModel) -> str:
    if model.chat_template is None:
        raise InvalidRequestError(
            Reason.NO_CHAT_TEMPLATE,
            "prompt.chat",
            f"model {model.name} has no chat template; send prompt.text or prompt.token_ids",
        )
    if not chat.messages:
        raise _empty("prompt.chat.messages", "give at least one message")
    for index, message in enumerate(chat.messages):
        if message.role not in ROLES:
            field = f"prompt.chat.messages[{index}].role"
            raise InvalidRequestError(
                Reason.INVALID_ROLE,
                field,
                f"{field} is {quote(message.role)}; it must be one of {', '.join(ROLES)}",
            )
    return model.chat_template.render(
        [{"role": message.role, "content": message.content} for message in chat.messages]
    )


def _check_length(tokens: int, field: str, max_tokens: int | None, *, at_least: bool = False) -> None:
    if max_tokens is not None and tokens > max_tokens:
        count = f"at least {tokens}" if at_least else str(tokens)
        raise InvalidRequestError(
            Reason.PROMPT_TOO_LONG,
            field,
            f"the prompt has {count} tokens; at most {max_tokens} leave room for one token of completion: "
            "shorten it",
            metadata={"prompt_tokens": str(tokens), "maximum": str(max_tokens)},
        )


def _empty(field: str, advice: str) -> InvalidRequestError:
    return InvalidRequestError(Reason.EMPTY_PROMPT, field, f"{field} is empty; {advice}")
