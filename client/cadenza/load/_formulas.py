"""Every formula behind a figure, as it is printed beside the figures."""

from typing import Final

FORMULAS: Final = {
    "scheduled": "when a request is due: the arrival process in an open loop, the moment its stream is free "
    "in a closed one",
    "window": "what is measured: from the end of the warm-up to the end of the load; requests count where "
    "they were scheduled in it, tokens where they arrived in it",
    "TTFT": "first message with tokens - scheduled",
    "TPOT": "(latency - TTFT) / (tokens - 1), per request of two tokens or more",
    "ITL": "time between a token and the one before it; of k tokens in one message the last k - 1 have 0",
    "latency": "end of the stream - scheduled",
    "queue": "from arrival at the server to the first step, on the server's clock",
    "lag": "sent - scheduled: the generator's own lateness, which is part of TTFT and latency",
    "pX": "of n sorted values the one at (n - 1) * X / 100, interpolated linearly",
    "throughput": "tokens of successful requests that arrived in the window / its length",
    "goodput": "requests scheduled in the window that succeeded and met every objective / its length",
    "valid": "lag and the event loop's lateness are below the limit at p99; all requests were sent",
}
