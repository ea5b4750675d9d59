"""The `cadenza` command: what it prints, sends and exits with."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from tests.client.scripted import ScriptedServer, error_info, out_of_range, piece, rich_status

from cadenza.client.cli import main
from cadenza.v1 import completion_pb2 as pb


@pytest.fixture(autouse=True)
def target(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The command finds the server through its environment."""
    monkeypatch.setenv("CADENZA_TARGET", server.target)
    monkeypatch.delenv("CADENZA_MODEL", raising=False)
    return server.target


def stdin_of(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_complete_streams_the_text(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "Paris?"]) == 0
    assert capsys.readouterr() == ("The capital is Paris.\n", "")
    (request,) = server.requests
    assert isinstance(request, pb.StreamCompletionRequest)
    assert request.prompt.text == "Paris?"
    assert request.parameters == pb.CompletionParameters()


def test_sampling_flags_go_with_the_request(server: ScriptedServer) -> None:
    numbers = "--max-tokens 5 --temperature 0 --top-k 3 --top-p 0.5 --min-p 0.25 --seed 9"
    assert main(["complete", "x", *numbers.split(), "--stop", "A", "--stop", "B", "--ignore-eos"]) == 0
    assert server.requests[0].parameters == pb.CompletionParameters(  # type: ignore[attr-defined]
        max_tokens=5, temperature=0, top_k=3, top_p=0.5, min_p=0.25, seed=9, stop=["A", "B"], ignore_eos=True
    )


def test_complete_reads_its_prompt_from_stdin(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin_of(monkeypatch, "naïve\n\n".encode())
    assert main(["complete", "-"]) == 0
    assert server.requests[0].prompt.text == "naïve\n"  # type: ignore[attr-defined]


def test_stdin_that_is_no_text_is_wrong_usage(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin_of(monkeypatch, b"abc\xff")
    assert main(["complete", "-"]) == 2
    assert "stdin is not utf-8 text: invalid start byte at byte 3" in capsys.readouterr().err
    assert server.requests == []


def test_complete_without_streaming_makes_a_unary_call(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", "x", "--no-stream"]) == 0
    assert capsys.readouterr().out == "The capital is Paris.\n"
    assert isinstance(server.requests[0], pb.CreateCompletionRequest)


def test_complete_prints_a_line_of_json_per_chunk(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "x", "--json", "--stream"]) == 0
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [first["choices"][0]["text"], last["choices"][0]["text"]] == ["The capital", " is Paris."]
    assert (first["usage"], last["usage"]["completion_tokens"]) == (None, 4)


def test_files_go_before_the_argument_with_an_empty_line_between(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("def a():\n    pass\n")
    stdin_of(monkeypatch, b"from a pipe\n")
    assert main(["chat", "What is this?", "--file", str(tmp_path / "a.py"), "-f", "-"]) == 0
    assert main(["complete", "--file", str(tmp_path / "a.py")]) == 0
    question, prompt = (request.prompt for request in server.requests)  # type: ignore[attr-defined]
    assert question.chat.messages[0].content == "def a():\n    pass\n\nfrom a pipe\n\nWhat is this?"
    assert prompt.text == "def a():\n    pass"


def test_complete_without_a_prompt_reads_a_pipe(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin_of(monkeypatch, b"piped")
    assert main(["complete"]) == 0
    assert server.requests[0].prompt.text == "piped"  # type: ignore[attr-defined]


def test_a_file_that_is_not_there_is_wrong_usage(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", "--file", "/no/such/file"]) == 2
    assert capsys.readouterr().err == (
        "cadenza: INVALID_OPTION: file: /no/such/file cannot be read: No such file or directory\n"
    )
    assert server.requests == []


def test_complete_prints_the_whole_completion_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "x", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["choices"][0]["text"] == "The capital is Paris."
    assert printed["choices"][0]["finish_reason"] == "STOP"
    assert printed["usage"]["prompt_tokens"] == 7


def test_chat_asks_one_question(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "Capital?", "--system", "Be brief."]) == 0
    assert capsys.readouterr().out == "The capital is Paris.\n"
    messages = server.requests[0].prompt.chat.messages  # type: ignore[attr-defined]
    assert [(m.role, m.content) for m in messages] == [("system", "Be brief."), ("user", "Capital?")]


def test_chat_reads_its_question_from_a_pipe(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(monkeypatch, b"Capital?\n")
    assert main(["chat"]) == 0
    assert server.requests[0].prompt.chat.messages[0].content == "Capital?"  # type: ignore[attr-defined]


def test_models_are_shown_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "VERSION", "FAMILY", "PRECISION", "PARAMETERS", "CONTEXT", "CHAT"]
    assert row.split() == ["tiny", "3", "llama", "int8", "134.5M", "2048", "yes"]
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["eos_token_ids"] == [2]


def test_health_exits_with_0_only_where_the_server_serves(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health"]) == 0
    server.set_serving(serving=False)
    assert main(["health"]) == 1
    assert capsys.readouterr() == ("SERVING\nNOT_SERVING\n", "")


def test_tokens_are_counted_and_listed(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokens", "a b c"]) == 0
    assert capsys.readouterr().out == "3\n1 2 3\n"
    stdin_of(monkeypatch, b"a b c")
    assert main(["tokens", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"prompt_tokens": 3, "token_ids": [1, 2, 3]}
    assert [request.prompt.text for request in server.requests] == ["a b c", "a b c"]  # type: ignore[attr-defined]


def test_connection_flags_may_stand_before_or_after_the_command(
    server: ScriptedServer, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CADENZA_TARGET", "localhost:1")
    monkeypatch.setenv("CADENZA_MODEL", "from-environment")
    assert main(["--target", target, "complete", "x"]) == 0
    assert main(["--model", "before", "complete", "x", "--target", target, "--timeout", "5"]) == 0
    assert main(["complete", "x", "--target", target, "--model", "after"]) == 0
    models = [request.model for request in server.requests]  # type: ignore[attr-defined]
    assert models == ["from-environment", "before", "after"]
    assert server.seconds_left[1] is not None
    assert server.seconds_left[1] < 6


def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.failure = out_of_range()
    assert main(["complete", "x", "--temperature", "-1"]) == 1
    assert capsys.readouterr() == (
        "",
        "cadenza: FIELD_OUT_OF_RANGE: parameters.temperature must be within 0 and 100; given: -1\n",
    )


def test_a_failure_of_the_server_names_the_request(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.failure = rich_status(grpc.StatusCode.INTERNAL, "a step failed", error_info("ENGINE_FAILED"))
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "cadenza: ENGINE_FAILED: a step failed (request req-1)\n"


def test_a_text_without_end_is_wrong_usage(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokens", "--file", "/dev/zero"]) == 2
    assert "/dev/zero has more than 16,777,216 characters" in capsys.readouterr().err
    assert server.requests == []


def test_a_server_that_is_not_there_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        target = f"localhost:{unused.getsockname()[1]}"
        for command in (["health"], ["models"], ["chat", "x"]):
            assert main(["--target", target, *command]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"cadenza: CONNECTION_FAILED: no answer from {target}: ")


def test_a_timeout_is_one_line_on_stderr(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.hangs_after = 1
    assert main(["--timeout", "0.2", "complete", "x"]) == 1
    assert capsys.readouterr().err.startswith("cadenza: DEADLINE_EXCEEDED: no complete answer")
    assert server.cancelled.wait(10)


@pytest.mark.parametrize(
    "arguments",
    [
        ["complete", "x", "--timeout", "0"],
        ["complete", "x", "--top-k", "99999999999"],
        ["complete", "\udcff"],
        ["complete", "x", "--max-retries", "-1"],
        ["complete", "x", "--token-file", "/no/such/file", "--target", "example.com:8500"],
        ["complete", "x", "--ca-file", "/no/such/file"],
        ["complete", "x", "--cert-file", "pyproject.toml"],
    ],
)
def test_an_option_that_cannot_be_sent_is_wrong_usage(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("cadenza: INVALID_OPTION: ")
    assert server.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["complete", "x", "--stream", "later"],
        ["complete", "x", "--seed", "y"],
    ],
)
def test_wrong_arguments_end_in_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_help_documents_exit_codes_and_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("exit codes:", "130", "CADENZA_TARGET", "CADENZA_MODEL"))


def run_command(*arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """The command in a process of its own, with pipes for its three streams."""
    command = [sys.executable, "-W", "error", "-m", "cadenza.client.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)


def test_in_a_process_of_its_own_a_pipe_goes_in_and_plain_text_comes_out(server: ScriptedServer) -> None:
    server.answer = (piece("Ünïcödé ", 1), piece("🎼", 2))
    done = run_command("complete", "-", stdin="Où?".encode())
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, "Ünïcödé 🎼\n", b"")
    assert server.requests[0].prompt.text == "Où?"  # type: ignore[attr-defined]


def test_in_a_process_of_its_own_a_refusal_is_one_line_and_exit_code_1(server: ScriptedServer) -> None:
    server.failure = out_of_range()
    done = run_command("chat", stdin=b"x")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"cadenza: FIELD_OUT_OF_RANGE: ")
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_leaves_ends_the_command_without_a_traceback(server: ScriptedServer) -> None:
    server.answer = tuple(piece("x" * 70_000, 1) for _ in range(4))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "cadenza.client.cli", "complete", "x"],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
