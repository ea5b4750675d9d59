"""Connect with TLS and a bearer token, and say how long to wait and how often to try again.

Usage: python secure.py CA_FILE TOKEN_FILE
"""

import os
import sys
from pathlib import Path

from cadenza.client import Client, Tls, Unauthenticated

ca_file, token_file = sys.argv[1:]

with Client(
    os.environ.get("CADENZA_TARGET", "localhost:8500"),
    tls=Tls(ca_file=ca_file),
    token=Path(token_file),  # read again when it changes
    timeout=30,
    max_retries=2,
) as client:
    try:
        print(client.chat("What is the capital of France?", max_tokens=32).text)
    except Unauthenticated as error:
        sys.exit(f"the token in {token_file} is not accepted: {error.message}")
