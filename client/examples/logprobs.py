"""Show how sure the model was of each token, and what it would have said instead."""

import math
import os

from cadenza.client import Client

with Client(os.environ.get("CADENZA_TARGET", "localhost:8500")) as client:
    completion = client.complete("The capital of France is", max_tokens=8, temperature=0, logprobs=2)
    logprobs = completion.choices[0].logprobs
    for token in logprobs.completion if logprobs else ():
        others = ", ".join(repr(other.text) for other in token.alternatives)
        print(f"{token.text!r}: {math.exp(token.logprob or 0.0):.0%}  (of {others})")
    print(completion.text)
