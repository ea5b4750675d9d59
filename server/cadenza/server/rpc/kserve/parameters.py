"""What a request says beside its prompt: sampling parameters, as JSON or as the request's own, a timeout."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from pydantic_core import from_json

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.errors import InvalidRequestError, Reason, quote
from cadenza.v1 import completion_pb2 as pb

_FIELDS = {
    name: field for name, field in pb.CompletionParameters.DESCRIPTOR.fields_by_name.items() if name != "echo"
}
"""All of CompletionParameters but `echo`: exclude_input_in_output says the same."""

_KINDS = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_STRING: "a text",
    FieldDescriptor.CPPTYPE_MESSAGE: "an object: a number for each token id",
}
"""What a field takes; whole numbers are the rest."""

_TIMEOUT = "timeout"
_EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
_UNSUPPORTED: Mapping[str, str] = {
    "priority": "the protocol's goes the other way round; use priority of sampling_parameters, higher first",
    "sequence_id": "requests do not depend on each other; send the whole prompt",
    "sequence_start": "requests do not depend on each other; send the whole prompt",
    "sequence_end": "requests do not depend on each other; send the whole prompt",
}
"""The protocol's own parameters that have no meaning here."""

_UINT64 = 2**64


def read_json(content: bytes) -> pb.CompletionParameters:
    """Of the tensor sampling_parameters: a JSON object. Raises InvalidRequestError."""
    try:
        given = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise _malformed("sampling_parameters", f"is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise _malformed("sampling_parameters", f"is {quote(given)}; it must be a JSON object")
    return _parameters(given, "sampling_parameters")


def read_map(given: Mapping[str, oip.InferParameter]) -> pb.CompletionParameters:
    """Of the request's parameters, the protocol's own aside. Raises InvalidRequestError."""
    own = {_TIMEOUT, _EMPTY_FINAL_RESPONSE, *_UNSUPPORTED}
    return _parameters({name: _value(one) for name, one in given.items() if name not in own}, "parameters")


def read_timeout(given: Mapping[str, oip.InferParameter]) -> float | None:
    """The seconds that the request may take, where its parameters say so; the protocol has microseconds.

    Raises InvalidRequestError, for the protocol's other parameters that are set too.
    """
    for name, why in _UNSUPPORTED.items():
        if name in given and _value(given[name]):
            path = f"parameters.{name}"
            raise InvalidRequestError(
                Reason.UNSUPPORTED_FIELD, path, f"{path} is set, which is not supported: {why}"
            )
    value = _value(given[_TIMEOUT]) if _TIMEOUT in given else 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        path = f"parameters.{_TIMEOUT}"
        raise _malformed(path, f"is {quote(value)}; it must be a whole number of microseconds, 0 for none")
    return value / 1e6 if value else None


def _parameters(given: Mapping[str, Any], source: str) -> pb.CompletionParameters:
    """Values may be texts that hold them, as clients of Triton's vLLM backend write numbers."""
    parameters = pb.CompletionParameters()
    for name, value in given.items():
        path = f"{source}.{name[:64]}"
        if name not in _FIELDS:
            known = ", ".join(sorted(_FIELDS))
            raise InvalidRequestError(
                Reason.UNKNOWN_FIELD, path, f"{path} is no parameter here; leave it out. There are {known}"
            )
        try:
            json_format.ParseDict({name: _usual(name, value)}, parameters)
        except json_format.ParseError as error:
            raise _malformed(path, f"is {quote(value)}; it must be {_kind(_FIELDS[name])}") from error
    return parameters


def _usual(name: str, value: Any) -> Any:
    """The value as CompletionParameters has it: some are known in other forms as well."""
    if name == "stop" and isinstance(value, str):
        return [value]
    if name == "seed" and isinstance(value, int):
        return value % _UINT64
    if name == "top_k" and value in (-1, "-1"):
        return 0
    return value


def _kind(field: FieldDescriptor) -> str:
    kind = _KINDS.get(field.cpp_type, "a whole number")
    is_list = field.is_repeated and field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE
    return f"a list, each {kind}" if is_list else kind


def _value(parameter: oip.InferParameter) -> bool | int | float | str | None:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _malformed(path: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(Reason.MALFORMED_REQUEST, path, f"{path} {what}")
