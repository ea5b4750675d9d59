"""Complete a prompt and look at the answer. Usage: python complete.py [PROMPT]"""

import os
import sys

from cadenza.client import Client

prompt = sys.argv[1] if len(sys.argv) > 1 else "The quick brown fox"

with Client(os.environ.get("CADENZA_TARGET", "localhost:8500")) as client:
    completion = client.complete(prompt, max_tokens=32, temperature=0)
    print(completion.text)
    print(completion.finish_reason, completion.usage, completion.timing)
