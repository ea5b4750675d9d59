"""Requests of the Open Inference Protocol by the generated stubs, their tensors raw or typed."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tests.server.live import Live

from cadenza.kserve import inference_pb2 as oip
from cadenza.kserve import inference_pb2_grpc as oip_grpc

Tensors = dict[str, list[Any]]


def infer_request(
    text: str | bytes = "a",
    *,
    request_id: str = "",
    model: str = "tiny",
    version: str = "",
    raw: bool = True,
    sampling: Any = None,
    outputs: tuple[str, ...] = (),
    **flags: Any,
) -> oip.ModelInferRequest:
    """A request for the completion of a text; `sampling` is JSON, or turned into it."""
    request = oip.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    add_input(request, "text_input", text if isinstance(text, bytes) else text.encode(), raw=raw)
    if sampling is not None:
        content = sampling if isinstance(sampling, bytes) else json.dumps(sampling).encode()
        add_input(request, "sampling_parameters", content, raw=raw)
    for name, flag in flags.items():
        add_input(request, name, flag, raw=raw)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def add_input(request: oip.ModelInferRequest, name: str, value: bytes | bool, *, raw: bool = True) -> None:
    """Adds a tensor of one element."""
    if isinstance(value, bool):
        tensor, content = request.inputs.add(name=name, datatype="BOOL", shape=[1]), bytes([value])
    else:
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
        content = len(value).to_bytes(4, "little") + value
    if raw:
        request.raw_input_contents.append(content)
    elif isinstance(value, bool):
        tensor.contents.bool_contents.append(value)
    else:
        tensor.contents.bytes_contents.append(value)


def tensors(response: oip.ModelInferResponse) -> Tensors:
    """The outputs by name, whatever their form, each as long as its shape says."""
    raws = response.raw_output_contents
    assert len(raws) in (0, len(response.outputs))
    found: Tensors = {}
    for index, output in enumerate(response.outputs):
        values = _unpacked(output.datatype, raws[index]) if raws else _typed(output)
        assert list(output.shape) == [len(values)]
        found[output.name] = values
    return found


def texts(response: oip.ModelInferResponse) -> list[str]:
    """What text_output says."""
    return [one.decode() for one in tensors(response)["text_output"]]


def own_channel(live: Live) -> grpc.aio.Channel:
    """A connection that nobody else uses, and that takes 64 KiB which are not read, however fast it is."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{live.ports.grpc}", options)


def inference(channel: Any) -> Any:
    """The stub of the service."""
    return oip_grpc.GRPCInferenceServiceStub(channel)


async def until_not_ready(stub: Any) -> None:
    """Asks until the server says that it takes no requests."""
    async with asyncio.timeout(10):
        while (await stub.ServerReady(oip.ServerReadyRequest())).ready:
            pass


class Conversation:
    """One ModelStreamInfer that a test reads and writes by turns."""

    def __init__(self, channel: grpc.aio.Channel, **options: Any) -> None:
        self.call = inference(channel).ModelStreamInfer(**options)

    async def send(self, *requests: oip.ModelInferRequest) -> None:
        for request in requests:
            await self.call.write(request)

    async def receive(self) -> oip.ModelStreamInferResponse:
        """The next response, which must come."""
        response = await self.call.read()
        assert isinstance(response, oip.ModelStreamInferResponse)
        return response

    async def rest(self) -> list[oip.ModelStreamInferResponse]:
        """Sends no more, and gives all that is still to come."""
        await self.call.done_writing()
        return [response async for response in _messages(self.call)]

    async def all_of(self, *requests: oip.ModelInferRequest) -> list[oip.ModelStreamInferResponse]:
        """All responses to some requests, and the end."""
        await self.send(*requests)
        return await self.rest()


async def streamed(channel: grpc.aio.Channel, *requests: oip.ModelInferRequest) -> list[Any]:
    """All responses of a stream of its own."""
    async with asyncio.timeout(20):
        return await Conversation(channel).all_of(*requests)


async def _messages(call: Any) -> AsyncIterator[oip.ModelStreamInferResponse]:
    while isinstance(message := await call.read(), oip.ModelStreamInferResponse):
        yield message


def _typed(output: oip.ModelInferResponse.InferOutputTensor) -> list[Any]:
    contents: Any = output.contents
    fields = {"BYTES": "bytes_contents", "FP32": "fp32_contents", "UINT32": "uint_contents"}
    return list(getattr(contents, fields[output.datatype]))


def _unpacked(datatype: str, raw: bytes) -> list[Any]:
    if datatype != "BYTES":
        return list(struct.unpack(f"<{len(raw) // 4}{'f' if datatype == 'FP32' else 'I'}", raw))
    values, at = [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        values.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return values
