"""Where a client's settings come from: arguments before the environment before defaults."""

from typing import Any

import pytest
from tests.client.scripted import ScriptedServer

from cadenza.client import AsyncClient, Client, InvalidOption


@pytest.fixture
def environment(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    variables = {
        "TARGET": server.target,
        "MODEL": "m",
        "TIMEOUT": "7",
        "CLIENT_ID": "team",
        "MAX_RETRIES": "0",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"CADENZA_{name}", value)
    return monkeypatch


async def test_the_environment_holds_where_arguments_say_nothing(
    server: ScriptedServer, environment: pytest.MonkeyPatch
) -> None:
    with Client() as client:
        client.complete("x")
    async with AsyncClient() as twin:
        await twin.complete("x")
    assert [request.model for request in server.requests] == ["m", "m"]  # type: ignore[attr-defined]
    assert [metadata["cadenza-client-id"] for metadata in server.metadata] == ["team", "team"]
    assert all(left is not None and left < 8 for left in server.seconds_left)


def test_arguments_go_before_the_environment(server: ScriptedServer, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CADENZA_TARGET", "localhost:1")
    with Client(server.target, model="mine", timeout=3, client_id="me") as client:
        client.complete("x")
    assert server.requests[0].model == "mine"  # type: ignore[attr-defined]
    assert server.metadata[0]["cadenza-client-id"] == "me"
    assert server.seconds_left[0] is not None
    assert server.seconds_left[0] < 4


def test_an_empty_variable_counts_as_absent(server: ScriptedServer, environment: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "TIMEOUT", "CLIENT_ID", "TOKEN", "TLS", "TLS_CA_FILE"):
        environment.setenv(f"CADENZA_{name}", "")
    with Client() as client:
        client.complete("x")
    assert server.requests[0].model == ""  # type: ignore[attr-defined]
    assert "cadenza-client-id" not in server.metadata[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIMEOUT", "soon"),
        ("TIMEOUT", "0"),
        ("MAX_RETRIES", "-1"),
        ("CLIENT_ID", "two words"),
        ("TLS", "maybe"),
    ],
)
def test_a_variable_that_makes_no_sense_is_named(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(f"CADENZA_{name}", value)
    with pytest.raises(InvalidOption, match=f"CADENZA_{name}"):
        Client()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"max_retries": 101}, "max_retries"),
        ({"max_message_bytes": 0}, "max_message_bytes"),
        ({"keepalive": 0}, "keepalive"),
        ({"tls": "yes"}, "tls"),
        ({"token": 5}, "token"),
        ({"tokn": "x"}, "tokn"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Client(**options)
    assert caught.value.field_violations[0].field == field


@pytest.mark.parametrize("target", ["", "a b:1", "host\n:1"])
def test_a_target_that_is_no_name_is_refused(target: str) -> None:
    with pytest.raises(InvalidOption, match="target"):
        Client(target)
