"""The process: what its exit codes mean, what signals do, what it imports."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.server.artifacts import write_artifact
from tests.server.live import create, stream
from tests.server.scripted_process import ENDLESS_VERSION

from cadenza.v1 import completion_pb2_grpc as pb_grpc

REPOSITORY = Path(__file__).parents[2]
WAIT_SECONDS = 30


class Process:
    """A scripted server process, read by its log."""

    def __init__(self, artifact: Path, how: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.server.scripted_process", str(artifact), how],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self.port = self.until("listening")["grpc_port"]
        self.until("tokenizer_loaded" if how == "loading" else "ready")

    def until(self, event: str) -> dict[str, Any]:
        """Reads the log up to an event."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        raise AssertionError(f"the process ended without {event}: {self.log}")

    def say(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def exit_code(self) -> int:
        return self.popen.wait(WAIT_SECONDS)


@contextlib.contextmanager
def _process(artifact: Path, how: str = "free") -> Iterator[tuple[Process, pb_grpc.CompletionServiceStub]]:
    process = Process(artifact, how)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{process.port}") as channel:
            yield process, pb_grpc.CompletionServiceStub(channel)
    finally:
        process.popen.kill()
        process.popen.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_a_running_stream_finish_and_exits_0(artifact: Path, number: signal.Signals) -> None:
    with _process(artifact, "held") as (process, stub):
        call = stub.StreamCompletion(stream("a", max_tokens=3))
        process.say("step")
        text = next(call).choices[0].text
        process.popen.send_signal(number)
        process.until("stopping")
        process.say("step")
        process.say("step")
        assert text + "".join(message.choices[0].text for message in call) == "bcd"
        assert process.until("stopped")["exit_code"] == 0
        assert process.exit_code() == 0


def test_signal_before_the_model_is_loaded_ends_the_process_with_0(artifact: Path) -> None:
    with _process(artifact, "loading") as (process, _):
        process.popen.send_signal(signal.SIGTERM)
        assert process.exit_code() == 0


def test_load_only_ends_the_process_with_0_once_the_models_are_loaded(artifact: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.server.scripted_process", str(artifact), "free"],
        cwd=REPOSITORY,
        env={**os.environ, "CADENZA_SERVER_LOAD_ONLY": "true"},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    assert events[-3:] == ["ready", "stopping", "stopped"]


def test_second_signal_ends_the_process_at_once_with_4(artifact: Path) -> None:
    with _process(artifact, "held") as (process, stub):
        call = stub.StreamCompletion(stream("a", max_tokens=3))
        process.say("step")
        next(call)
        process.popen.send_signal(signal.SIGTERM)
        process.until("stopping")
        process.popen.send_signal(signal.SIGTERM)
        assert process.exit_code() == 4
        with pytest.raises(grpc.RpcError):
            list(call)


def test_sighup_has_the_folder_of_models_looked_at(artifact: Path) -> None:
    with _process(artifact, "folder") as (process, stub):
        write_artifact(artifact.with_name("8"))
        process.popen.send_signal(signal.SIGHUP)
        assert process.until("version_available")["version"] == 8
        assert stub.CreateCompletion(create("a")).model_version == 8


def test_signal_while_a_version_is_loaded_drains_and_ends_with_0(artifact: Path) -> None:
    with _process(artifact, "folder") as (process, stub):
        write_artifact(artifact.with_name(str(ENDLESS_VERSION)))
        process.popen.send_signal(signal.SIGHUP)
        process.until("tokenizer_loaded")
        assert stub.CreateCompletion(create("a")).model_version == 7
        process.popen.send_signal(signal.SIGTERM)
        assert process.exit_code() == 0


def test_broken_engine_ends_the_process_with_3_and_its_trace_is_in_the_log(artifact: Path) -> None:
    with _process(artifact, "held") as (process, stub):
        call = stub.CreateCompletion.future(create("a"))
        process.say("fail")
        with pytest.raises(grpc.RpcError, match="engine failed"):
            call.result(WAIT_SECONDS)
        assert process.exit_code() == 3
        process.log.clear()
        with contextlib.suppress(AssertionError):
            process.until("never")
        assert any("the scripted failure" in line.get("exception", "") for line in process.log)


def test_log_has_one_line_per_completion_and_no_text(artifact: Path) -> None:
    with _process(artifact) as (process, stub):
        stub.CreateCompletion(create("secret"), metadata=(("x-request-id", "r1"),))
        process.popen.send_signal(signal.SIGTERM)
        process.until("stopped")
        (line,) = [line for line in process.log if line["event"] == "call"]
        assert (line["request_id"], line["client"]) == ("r1", "127.0.0.1")
        assert (line["model"], line["method"], line["code"]) == ("tiny", "CreateCompletion", "OK")
        assert (line["prompt_tokens"], line["completion_tokens"], line["finish_reason"]) == (6, 5, "length")
        assert line["seconds"] >= line["time_to_first_token"] > 0
        assert "secret" not in json.dumps(process.log)


def test_corrupted_artifact_ends_the_start_with_1_and_names_the_file(artifact: Path) -> None:
    (artifact / "assets.extra" / "cpu" / "h.tflite").write_bytes(b"x")
    ended = _cadenza_server(
        "--model", f"tiny={artifact}", "--port", "0", "--http-port", "0", "--log-format", "json"
    )
    assert ended.returncode == 1
    (line,) = [line for line in map(json.loads, ended.stderr.splitlines()) if line["event"] == "cannot_start"]
    assert "h.tflite is corrupted" in line["error"]


def test_tokens_that_cannot_be_read_end_the_start_with_1_and_name_the_file(artifact: Path) -> None:
    ended = _cadenza_server("--model", f"tiny={artifact}", "--token-file", "/nosuch", "--log-format", "json")
    assert ended.returncode == 1
    (line,) = [line for line in map(json.loads, ended.stderr.splitlines()) if line["event"] == "cannot_start"]
    assert line["error"] == "cannot read /nosuch: No such file or directory"


def test_wrong_flags_end_the_start_with_2_and_say_what_is_allowed() -> None:
    ended = _cadenza_server("--model", "a=b", "--port", "70000")
    assert ended.returncode == 2
    assert "--port '70000': Input should be less than or equal to 65535" in ended.stderr
    ended = _cadenza_server()
    assert ended.returncode == 2
    assert "--models DIR or --model NAME=PATH" in ended.stderr


def test_help_lists_flags_and_exit_codes() -> None:
    ended = _cadenza_server("--help")
    assert ended.returncode == 0
    assert "--max-queue-requests" in ended.stdout
    assert "Exit codes: 0 drained" in ended.stdout


def test_server_imports_neither_tensorflow_nor_what_makes_spans() -> None:
    program = (
        "import sys, cadenza.server.__main__, cadenza.server.runner.litert\n"
        "heavy = ('tensorflow', 'keras', 'opentelemetry')\n"
        "print([name for name in sys.modules if name.split('.')[0] in heavy])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_SECONDS, check=True
    )
    assert ended.stdout.strip() == "[]"


def _cadenza_server(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CADENZA_SERVER_")
    }
    return subprocess.run(
        [sys.executable, "-m", "cadenza.server", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
        env=environment,
    )
