"""The description of the API in OpenAPI 3.1, made of the models that requests are read with."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cadenza.server.http import answers
from cadenza.server.http.bodies import ChatBody, CompletionBody
from cadenza.server.http.sending import EVENTS

PATH = "/openapi.json"
_REF = "#/components/schemas/{model}"
_ALWAYS = (401, 500)
_LOOKING_UP = (*_ALWAYS, 400, 404, 503)
_GENERATING = (*_LOOKING_UP, 413, 429, 504)
_REQUESTS: tuple[type[BaseModel], ...] = (CompletionBody, ChatBody)
_ANSWERS: tuple[type[BaseModel], ...] = (
    answers.Completion,
    answers.CompletionChunk,
    answers.ChatCompletion,
    answers.ChatCompletionChunk,
    answers.ModelEntry,
    answers.ModelList,
    answers.Error,
)


def openapi(version: str) -> dict[str, Any]:
    """The description, of the server's version."""
    kinds = [(kind, "validation") for kind in (*_REQUESTS, *_ANSWERS)]
    _, schemas = models_json_schema(kinds, ref_template=_REF)  # type: ignore[arg-type]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cadenza",
            "version": version,
            "description": "OpenAI's API on Cadenza: completions and chats, whole or as server-sent events.",
        },
        "security": [{}, {"bearer": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> dict[str, Any]:
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    list_models = _operation("listModels", "The models that are loaded.", answers.ModelList, _ALWAYS)
    get_model = _operation("getModel", "One model.", answers.ModelEntry, _LOOKING_UP)
    complete = _operation(
        "createCompletion", "Completes texts or token ids.", answers.Completion, _GENERATING,
        CompletionBody, answers.CompletionChunk,
    )  # fmt: skip
    chat = _operation(
        "createChatCompletion", "Writes the next message of a conversation.", answers.ChatCompletion,
        _GENERATING, ChatBody, answers.ChatCompletionChunk,
    )  # fmt: skip
    return {
        "/v1/models": {"get": list_models},
        "/v1/models/{model}": {"get": {**get_model, "parameters": [name]}},
        "/v1/completions": {"post": complete},
        "/v1/chat/completions": {"post": chat},
    }


def _operation(
    name: str,
    summary: str,
    answer: type[BaseModel],
    refusals: tuple[int, ...],
    body: type[BaseModel] | None = None,
    event: type[BaseModel] | None = None,
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(answer)}}
    if event is not None:
        content[EVENTS] = {"schema": _events(event)}
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": content},
            **{str(code): _refusal(code) for code in sorted(refusals)},
        },
    }
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return found


def _events(kind: type[BaseModel]) -> dict[str, Any]:
    """Of each event of a stream, as parsers of server-sent events give it."""
    chunk = {"anyOf": [_ref(kind), _ref(answers.Error)]}
    data = [
        {"type": "string", "contentMediaType": "application/json", "contentSchema": chunk},
        {"const": "[DONE]", "description": "The last event of a stream that does not break off."},
    ]
    return {"type": "object", "properties": {"data": {"anyOf": data}}, "required": ["data"]}


def _refusal(code: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(answers.Error)}}
    return {"description": HTTPStatus(code).phrase, "content": content}


def _ref(kind: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=kind.__name__)}
