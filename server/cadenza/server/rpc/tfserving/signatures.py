"""What a model's SavedModel says of its signatures, and requests held against it."""

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cadenza.server.models import ServedModel
from cadenza.server.rpc.tfserving.errors import SignatureNotFoundError, invalid, name_set
from cadenza.server.rpc.tfserving.messages import get_model_metadata_pb2, saved_model_pb2
from cadenza.server.rpc.tfserving.tensors import Array, TensorError, data_type_name, read_tensor

DEFAULT_SIGNATURE = "serving_default"
_SERVE_TAG = "serve"


class SignatureTable:
    """The signature definitions of served models, each read once, when it is first asked for."""

    def __init__(self) -> None:
        self._found: weakref.WeakKeyDictionary[ServedModel, Any] = weakref.WeakKeyDictionary()

    async def find(self, find_model: Callable[[], ServedModel]) -> tuple[ServedModel, Any]:
        """A model and its SignatureDefMap; nothing is awaited after the model was found."""
        while (model := find_model()) not in self._found:
            path = model.artifact.path / "saved_model.pb"
            self._found[model] = await asyncio.to_thread(_read_signatures, path)
        return model, self._found[model]


def _read_signatures(path: Path) -> Any:
    """The signatures of the graph that is tagged for serving, as copies: the graph itself is megabytes."""
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    found = get_model_metadata_pb2.SignatureDefMap()
    for graph in saved_model.meta_graphs:
        if _SERVE_TAG in graph.meta_info_def.tags:
            for name, signature in graph.signature_def.items():
                found.signature_def[name].CopyFrom(signature)
    return found


def find_signature(signatures: Any, name: str) -> Any:
    """The SignatureDef of that name. Raises SignatureNotFoundError."""
    if name not in signatures.signature_def:
        raise SignatureNotFoundError(name)
    return signatures.signature_def[name]


def read_inputs(signature: Any, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a request's TensorProtos, all that the signature has, each of its type and rank.

    Raises InvalidRequestError.
    """
    _check_names(signature.inputs, inputs)
    by_feed = sorted(signature.inputs, key=lambda name: signature.inputs[name].name)
    arrays = {}
    for index, name in enumerate(by_feed):
        proto, wanted = inputs[name], signature.inputs[name]
        if proto.dtype != wanted.dtype:
            raise invalid(
                f"inputs[{name}]",
                f"Expects arg[{index}] to be {data_type_name(wanted.dtype)} but "
                f"{data_type_name(proto.dtype)} is provided: input {name}",
            )
        _check_rank(name, proto, wanted)
        try:
            arrays[name] = read_tensor(proto)
        except TensorError as error:
            raise invalid(f"inputs[{name}]", f"tensor parsing error: {name}: {error}") from error
    return arrays


def _check_names(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    extra, lacking = given.keys() - wanted.keys(), wanted.keys() - given.keys()
    if len(given) != len(wanted):
        raise invalid(
            "inputs",
            f"input size does not match signature: {len(given)}!={len(wanted)} len({name_set(given)}) != "
            f"len({name_set(wanted)}). Sent extra: {name_set(extra)}. "
            f"Missing but required: {name_set(lacking)}.",
        )
    for name in sorted(extra):
        raise invalid(
            "inputs",
            f"input tensor alias not found in signature: {name}. "
            f"Inputs expected to be in the set {name_set(wanted)}.",
        )


def _check_rank(name: str, given: Any, wanted: Any) -> None:
    given_rank, wanted_rank = len(given.tensor_shape.dim), len(wanted.tensor_shape.dim)
    if given_rank != wanted_rank:
        raise invalid(
            f"inputs[{name}]",
            f"input {name} has {given_rank} dimensions; the signature takes {wanted_rank}",
        )


def chosen_outputs(signature: Any, output_filter: Sequence[str]) -> list[str]:
    """The outputs that a request asks for: all where it names none. Raises InvalidRequestError."""
    for index, name in enumerate(output_filter):
        if name not in signature.outputs:
            raise invalid(
                "output_filter",
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {name_set(signature.outputs)}.",
            )
        if name in output_filter[:index]:
            raise invalid("output_filter", f"duplicate output tensor alias: {name}")
    return list(output_filter) or sorted(signature.outputs)
