"""Hold a conversation of two turns; say what went wrong, if anything did."""

import os
import sys

from cadenza.client import CadenzaError, Client, Message, QueueFull

messages = [Message("system", "Answer in one sentence."), Message("user", "What is the capital of France?")]

try:
    with Client(os.environ.get("CADENZA_TARGET", "localhost:8500"), timeout=30) as client:
        client.wait_ready(timeout=10)
        answer = client.chat(messages, temperature=0)
        print(answer.text)
        messages += [Message("assistant", answer.text), Message("user", "And of Italy?")]
        print(client.chat(messages, temperature=0).text)
except QueueFull as error:
    sys.exit(f"The server is busy; try again in {error.retry_after} s.")
except CadenzaError as error:
    sys.exit(str(error))
