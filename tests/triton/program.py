"""What Triton's own clients see of a server: python tests/triton/program.py TARGET MODEL. Prints JSON.

It runs in the environment of tests/triton/requirements.txt, so it knows nothing of Cadenza.
"""

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

PROMPT = "The quick brown fox"
GREEDY = {"temperature": "0", "max_tokens": "8"}
"""Numbers as texts: so the example of Triton's vLLM backend sends them."""
SEEDED = {"temperature": 0.8, "top_k": 40, "max_tokens": 8, "seed": 7}


def tensor(name: str, datatype: str, value: bytes | bool) -> Any:
    one = tritonclient.grpc.InferInput(name, [1], datatype)
    one.set_data_from_numpy(np.array([value], object if datatype == "BYTES" else bool))
    return one


def inputs(sampling: dict[str, Any], *, stream: bool = False, **flags: bool) -> list[Any]:
    return [
        tensor("text_input", "BYTES", PROMPT.encode()),
        tensor("stream", "BOOL", stream),
        tensor("sampling_parameters", "BYTES", json.dumps(sampling).encode()),
        *(tensor(name, "BOOL", flag) for name, flag in flags.items()),
    ]


def text(result: Any) -> str:
    (one,) = result.as_numpy("text_output")
    found: str = one.decode()
    return found


def describe(client: Any, model: str) -> dict[str, Any]:
    metadata = client.get_model_metadata(model, as_json=True)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(model), client.is_model_ready("no-such-model")],
        "server": client.get_server_metadata(as_json=True)["name"],
        "inputs": [one["name"] for one in metadata["inputs"]],
        "outputs": [one["name"] for one in metadata["outputs"]],
    }


def infer(client: Any, model: str) -> dict[str, Any]:
    asked = inputs(
        GREEDY, exclude_input_in_output=True, return_finish_reason=True, return_num_input_tokens=True
    )
    result = client.infer(model, asked, request_id="one")
    return {
        "text": text(result),
        "id": result.get_response().id,
        "finish_reason": result.as_numpy("finish_reason").tolist()[0].decode(),
        "num_input_tokens": result.as_numpy("num_input_tokens").tolist(),
        "with_prompt": text(client.infer(model, inputs(GREEDY))),
        "seeded": text(client.infer(model, inputs(SEEDED, exclude_input_in_output=True))),
    }


def refused(client: Any, model: str) -> str:
    try:
        client.infer(model, inputs({"temperature": -1}))
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    return "not refused"


def stream(client: Any, model: str) -> dict[str, list[str]]:
    """Three requests on one stream: greedy, seeded, and one that is refused."""
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)))
    for name, sampling in (("greedy", GREEDY), ("seeded", SEEDED), ("bad", {"temperature": -1})):
        client.async_stream_infer(model, inputs(sampling, stream=True), request_id=name)
    client.stop_stream()
    return collected(came.get() for _ in range(came.qsize()))


async def stream_by_asyncio(target: str, model: str) -> dict[str, list[str]]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for name, sampling in (("greedy", GREEDY), ("seeded", SEEDED)):
            asked = inputs(sampling, stream=True)
            outputs = [tritonclient.grpc.aio.InferRequestedOutput("text_output")]
            # The example of Triton's vLLM backend sends the parameters in both ways.
            yield {
                "model_name": model, "inputs": asked, "outputs": outputs, "request_id": name,
                "parameters": {key: str(value) for key, value in sampling.items()},
            }  # fmt: skip

    client = tritonclient.grpc.aio.InferenceServerClient(target)
    try:
        return collected([pair async for pair in client.stream_infer(requests())])
    finally:
        await client.close()


def collected(pairs: Iterable[tuple[Any, Any]]) -> dict[str, list[str]]:
    """The pieces of text by request, what ended last marked; errors by themselves."""
    found: dict[str, list[str]] = {}
    for result, error in pairs:
        if error is not None:
            found.setdefault("errors", []).append(error.message())
            continue
        response = result.get_response()
        found.setdefault(response.id, []).append(text(result))
        if response.parameters["triton_final_response"].bool_param:
            found.setdefault("final", []).append(response.id)
    return found


def main(target: str, model: str) -> None:
    with tritonclient.grpc.InferenceServerClient(target) as client:
        found = {
            "prompt": PROMPT,
            "described": describe(client, model),
            "inferred": infer(client, model),
            "refused": refused(client, model),
            "streamed": stream(client, model),
            "streamed_by_asyncio": asyncio.run(stream_by_asyncio(target, model)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
