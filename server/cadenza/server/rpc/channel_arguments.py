"""What gRPC itself holds callers to: sizes, calls and age of a connection, pings."""

import math

from cadenza.server.config import Settings

_LONGEST_MS = 2**31 - 1
"""gRPC takes it for: never."""
_PING_TIMEOUT_SECONDS = 20.0


def channel_arguments(settings: Settings) -> list[tuple[str, int]]:
    """gRPC's channel arguments for a server."""
    ping_timeout_ms = _milliseconds(min(settings.keepalive_seconds, _PING_TIMEOUT_SECONDS))
    return [
        # Up to twice the limit is received, to be refused with details; gRPC refuses more without.
        ("grpc.max_receive_message_length", 2 * settings.max_message_bytes),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.max_concurrent_streams", settings.max_connection_streams),
        ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_seconds)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(settings.max_connection_grace_seconds)),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", ping_timeout_ms),
        ("grpc.http2.ping_timeout_ms", ping_timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", math.ceil(settings.min_ping_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # A second server on the port must fail, not share it.
        ("grpc.so_reuseport", 0),
    ]


def _milliseconds(seconds: float) -> int:
    """0 seconds is never."""
    return min(math.ceil(seconds * 1000), _LONGEST_MS) if seconds else _LONGEST_MS
