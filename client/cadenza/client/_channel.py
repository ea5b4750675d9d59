"""How both clients connect."""

from typing import Final

DEFAULT_TARGET: Final = "localhost:8500"
DEFAULT_TIMEOUT: Final = 60.0
"""Seconds."""

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # A server that has just started is found within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Log-probabilities of a long completion exceed gRPC's 4 MiB.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)
