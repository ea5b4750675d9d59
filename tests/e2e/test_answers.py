"""The first thing a user sees: a real model answers, by every way there is to ask it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from deploy.demo.serving import ServerProcess
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cadenza.client import AsyncClient, Client, FinishReason

pytestmark = pytest.mark.real_model

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris"
"""How the answer begins; after it float32 itself leads by 0.3 logits only, which int8 may turn."""
COMMAND = str(Path(sys.executable).with_name("cadenza"))


def test_the_sdk_gets_the_answer(client: Client) -> None:
    completion = client.chat(QUESTION, temperature=0.0)
    assert completion.text.startswith(ANSWER)
    assert completion.finish_reason is FinishReason.STOP
    assert completion.usage.completion_tokens == len(completion.token_ids)


async def test_the_async_sdk_streams_the_answer(server: ServerProcess) -> None:
    async with AsyncClient(server.target) as client, client.stream_chat(QUESTION, temperature=0.0) as stream:
        pieces = [text async for text in stream.text()]
    assert "".join(pieces).startswith(ANSWER)
    assert len(pieces) > 3


def test_the_command_prints_the_answer(server: ServerProcess) -> None:
    done = subprocess.run(
        [COMMAND, "--target", server.target, "chat", QUESTION, "--temperature", "0"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip().startswith(ANSWER)


def test_a_client_that_knows_nothing_but_reflection_gets_the_answer(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.target) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service = pool.FindServiceByName("cadenza.v1.CompletionService")
        method = service.methods_by_name["CreateCompletion"]
        request: Any = message_factory.GetMessageClass(method.input_type)()
        chat = {"messages": [{"role": "user", "content": QUESTION}]}
        json_format.ParseDict({"prompt": {"chat": chat}, "parameters": {"temperature": 0}}, request)
        call: Any = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        answer = json.loads(json_format.MessageToJson(call(request, timeout=60), descriptor_pool=pool))
    assert answer["choices"][0]["text"].startswith(ANSWER)
    assert answer["choices"][0]["finishReason"] == "FINISH_REASON_STOP"


def test_a_seeded_sample_is_repeatable(client: Client) -> None:
    first, second = (
        client.complete("Once upon a time", max_tokens=24, temperature=0.9, top_p=0.9, seed=11)
        for _ in range(2)
    )
    assert first.token_ids == second.token_ids
    assert client.complete(
        "Once upon a time", max_tokens=24, temperature=0.9, top_p=0.9, seed=12
    ).token_ids != (first.token_ids)


def test_a_stop_string_of_the_real_model_is_never_shown(client: Client) -> None:
    with client.stream("1, 2, 3, 4, 5, 6,", max_tokens=40, temperature=0.0, stop=[", 9"]) as stream:
        text = "".join(stream.text())
    assert text == " 7, 8"
