"""Show a completion as it is generated. Usage: python stream.py [PROMPT]"""

import os
import sys

from cadenza.client import Client

prompt = sys.argv[1] if len(sys.argv) > 1 else "def fibonacci(n):"

with (
    Client(os.environ.get("CADENZA_TARGET", "localhost:8500")) as client,
    client.stream(prompt, max_tokens=64, temperature=0) as stream,
):
    for piece in stream.text():
        print(piece, end="", flush=True)
    print()
    print(stream.usage)
