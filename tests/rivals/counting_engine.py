"""An engine that a reader can compute by hand, for tests: the next token is the last one plus one.

Token 0 makes it fail, token 1 makes it end its process, token 2 makes it sleep until it is killed.
"""

import itertools
import os
import sys
import time
from collections.abc import Sequence

from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve


class CountingEngine:
    """Prints to stdout, as engines do."""

    def __init__(self, settings: Settings) -> None:
        os.write(1, b"loading " + settings.model.encode() + b"\n")

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine."""
        print("completing")
        last = [prompt[-1] for prompt in prompts]
        if 0 in last:
            raise ValueError("there is nothing before 1")
        if 1 in last:
            print("out of tokens", file=sys.stderr)
            os._exit(3)
        if 2 in last:
            time.sleep(3600)
        return [
            Completion([token + 1 + step for step in range(new_tokens)], [0.5] * new_tokens) for token in last
        ]

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine."""
        return [-2.0 * after / before for before, after in itertools.pairwise(token_ids)]


if __name__ == "__main__":
    serve(CountingEngine)
