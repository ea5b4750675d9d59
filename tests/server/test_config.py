"""Settings: flags over environment over defaults."""

from pathlib import Path

import pytest

from cadenza.server.config import Settings


def test_flags_win_over_the_environment_and_the_environment_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CADENZA_SERVER_PORT", "1234")
    monkeypatch.setenv("CADENZA_SERVER_LANES", "3")
    settings = Settings.from_command_line(["--models", "m", "--port", "99"])
    assert (settings.port, settings.lanes, settings.http_port) == (99, 3, 8501)
    assert settings.models == Path("m")


def test_model_is_repeated_on_the_command_line_and_comma_separated_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings.from_command_line(["--model", "a=x/1", "--model", "b=y/2"]).model == ("a=x/1", "b=y/2")
    monkeypatch.setenv("CADENZA_SERVER_MODEL", "a=x/1,b=y/2")
    assert Settings.from_command_line([]).model == ("a=x/1", "b=y/2")


def test_weights_of_clients_are_read_from_both(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--models", "m", "--client-weight", "a=b=2", "--client-weight", "::1=0.5"]
    assert Settings.from_command_line(flags).client_weights == {"a=b": 2.0, "::1": 0.5}
    monkeypatch.setenv("CADENZA_SERVER_CLIENT_WEIGHT", "a=3,b=1")
    assert Settings.from_command_line(["--models", "m"]).client_weights == {"a": 3.0, "b": 1.0}


def test_pins_and_labels_are_read_from_both(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--models", "m", "--pin", "a=1,2", "--pin", "b=3", "--version-label", "a:stable=1"]
    settings = Settings.from_command_line(flags)
    assert settings.pins == {"a": (1, 2), "b": (3,)}
    assert settings.version_labels == {("a", "stable"): 1}
    monkeypatch.setenv("CADENZA_SERVER_PIN", "a=1,2,b=3")
    monkeypatch.setenv("CADENZA_SERVER_VERSION_LABEL", "a:stable=1,a:next=2")
    settings = Settings.from_command_line(["--models", "m"])
    assert settings.pins == {"a": (1, 2), "b": (3,)}
    assert settings.version_labels == {("a", "stable"): 1, ("a", "next"): 2}


def test_the_prefix_cache_is_turned_off_by_flag_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_command_line(["--models", "m"]).prefix_cache
    assert not Settings.from_command_line(["--models", "m", "--no-prefix-cache"]).prefix_cache
    monkeypatch.setenv("CADENZA_SERVER_PREFIX_CACHE", "false")
    assert not Settings.from_command_line(["--models", "m"]).prefix_cache
    assert Settings.from_command_line(["--models", "m", "--prefix-cache"]).prefix_cache


def test_cache_lies_where_the_desktop_convention_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Settings.from_command_line(["--models", "m"]).cache_dir == tmp_path / "cadenza"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--models", "m", "--model", "a=b"],
        ["--models", "m", "--kv-cache-gib", "-1"],
        ["--models", "m", "--max-step-tokens", "64", "--max-sequences", "64"],
        ["--models", "m", "--log-format", "xml"],
        ["--models", "m", "--nosuch", "1"],
        ["--models", "m", "--client-weight", "a"],
        ["--models", "m", "--client-weight", "a=0"],
        ["--models", "m", "--client-weight", "a=nan"],
        ["--models", "m", "--overdue-seconds", "0"],
        ["--models", "m", "--models-poll-seconds", "-1"],
        ["--models", "m", "--pin", "a"],
        ["--models", "m", "--pin", "1,a=2"],
        ["--models", "m", "--pin", "a=x"],
        ["--model", "a=b/1", "--pin", "a=1"],
        ["--models", "m", "--version-label", "a=1"],
        ["--models", "m", "--version-label", "a:7=1"],
        ["--models", "m", "--version-label", "a:stable=newest"],
        ["--models", "m", "--watchdog-seconds", "-1"],
        ["--models", "m", "--tls-certificate", "a.crt"],
        ["--models", "m", "--tls-key", "a.key"],
        ["--models", "m", "--tls-client-ca", "ca.crt"],
        ["--models", "m", "--health-port", "65536"],
        ["--models", "m", "--max-metadata-bytes", "0"],
        ["--models", "m", "--slow-request-seconds", "-1"],
        ["--models", "m", "--otlp-endpoint", "localhost:4317"],
        ["--models", "m", "--otlp-endpoint", "http://localhost:4317/v1/traces"],
    ],
)
def test_wrong_flags_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        Settings.from_command_line(arguments)
    assert raised.value.code == 2
    assert "cadenza-server: error:" in capsys.readouterr().err
