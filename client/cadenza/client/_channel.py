"""How both clients connect: DNS, round robin over the addresses that are healthy, pings, bounded messages.

The balanced channel carries the calls: it asks grpc.health.v1 of every address and passes over those that do
not serve. The plain channel asks for health on behalf of the caller, which an ill server shall answer too.
"""

import functools
import importlib.metadata
import json
import math
import platform
from typing import Final, TypeAlias

from cadenza.client._settings import Settings

ChannelOptions: TypeAlias = list[tuple[str, str | int]]

_BALANCED: Final = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
)
_LONGEST_MS: Final = 2**31 - 1
_PING_TIMEOUT_SECONDS: Final = 10.0


def balanced_options(settings: Settings) -> ChannelOptions:
    """gRPC's channel arguments for calls."""
    return [("grpc.service_config", _BALANCED), *_common_options(settings)]


def plain_options(settings: Settings) -> ChannelOptions:
    """gRPC's channel arguments for health checks."""
    return [("grpc.inhibit_health_checking", 1), *_common_options(settings)]


def _common_options(settings: Settings) -> ChannelOptions:
    ping_timeout = _milliseconds(min(settings.keepalive, _PING_TIMEOUT_SECONDS))
    options: ChannelOptions = [
        ("grpc.primary_user_agent", _user_agent()),
        # A server that has just started is found within a second; gRPC's own back-off grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive)),
        ("grpc.keepalive_timeout_ms", ping_timeout),
        # Where this is longer (a minute by default) gRPC waits for it, whatever the one above says.
        ("grpc.http2.ping_timeout_ms", ping_timeout),
        # A server that computes for long sends nothing meanwhile; it must be pinged all the same.
        ("grpc.http2.max_pings_without_data", 0),
        # Nor does it take pings that measure the network for abuse: answers are too small to need them.
        ("grpc.http2.bdp_probe", 0),
    ]
    if settings.tls is not None and settings.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    return options


def _milliseconds(seconds: float) -> int:
    return _LONGEST_MS if math.isinf(seconds) else min(round(seconds * 1000), _LONGEST_MS)


@functools.cache
def _user_agent() -> str:
    return f"cadenza/{importlib.metadata.version('cadenza')} python/{platform.python_version()}"
