"""Cadenza over gRPC: a server, and a client on the same cores to which every token is streamed.

The server has its default settings, speculation apart. arena.py starts it.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from deploy.demo.models import CACHE
from deploy.demo.serving import serve as serve_model
from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve

from cadenza.client import CompletionOptions
from cadenza.load import closed_loop


class CadenzaServer:
    """A server in a process of its own; it ends with this one's process group."""

    def __init__(self, settings: Settings) -> None:
        self._stack = contextlib.ExitStack()
        flags = ["--cache-dir", str(CACHE / "server")]
        if not settings.speculates:
            flags += ["--speculation-tokens", "0"]
        server = serve_model({"model": Path(settings.model)}, *flags)
        self._target = self._stack.enter_context(server).target

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine. The load tester counts tokens and drops them, so there are no ids."""
        options: CompletionOptions = {"max_tokens": new_tokens, "temperature": 0.0, "ignore_eos": True}
        loaded = closed_loop(self._target, prompts, concurrency=len(prompts), options=options)
        completions = []
        for record in asyncio.run(loaded):
            if record.error:
                raise RuntimeError(record.error)
            times = [message.at for message in record.messages for _ in range(message.tokens)]
            completions.append(Completion(times=times))
        return completions

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine. The engine behind it is judged in process."""
        raise NotImplementedError


if __name__ == "__main__":
    serve(CadenzaServer)
