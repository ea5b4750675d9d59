"""`make demo`: serves the exported model, streams a chat completion through the SDK, prints the latency.

Run as `python -m deploy.demo.demo` after `python -m deploy.demo.models int8`.
"""

import asyncio
import sys
import time

from deploy.demo.models import ARTIFACTS
from deploy.demo.serving import ServerProcess, serve

from cadenza.client import Client, Completion, Message
from cadenza.load import closed_loop, print_summary, summarise

QUESTIONS = (
    "What is the capital of France?",
    "Write two sentences about the sea.",
    "How do I reverse a list in Python?",
    "Name three colours of the rainbow.",
)


def main() -> int:
    """Returns the exit status."""
    print("Starting the server (the first start compiles its kernels and packs the weights) ...", flush=True)
    with serve({"smollm2-135m": ARTIFACTS["int8"]}) as server:
        print(f"READY after {server.ready_seconds:.1f} s on {server.target}\n", flush=True)
        _chat(server)
        _measure(server)
    return 0


def _chat(server: ServerProcess) -> None:
    """One streamed answer, as an application would ask for it."""
    question = QUESTIONS[0]
    print(f"user       {question}\nassistant  ", end="", flush=True)
    with Client(server.target) as client:
        begin = time.perf_counter()
        with client.stream_chat(question, temperature=0.0, max_tokens=64) as stream:
            for text in stream.text():
                print(text, end="", flush=True)
        answer: Completion = stream.collect()
        seconds = time.perf_counter() - begin
    reason = answer.finish_reason.name if answer.finish_reason else "no end"
    print(f"\n           [{reason}, {answer.usage.completion_tokens} tokens, {seconds:.2f} s]\n")


def _measure(server: ServerProcess) -> None:
    """The latency of a few concurrent chats."""
    prompts = [[Message("user", question)] for question in QUESTIONS * 4]
    for concurrency in (1, 8):
        records = asyncio.run(
            closed_loop(
                server.target,
                prompts,
                concurrency=concurrency,
                options={"max_tokens": 64, "temperature": 0.0, "ignore_eos": True},
            )
        )
        print(f"{len(prompts)} chats of 64 tokens, {concurrency} at a time")
        print_summary(summarise(records))


if __name__ == "__main__":
    sys.exit(main())
