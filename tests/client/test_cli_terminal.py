"""`cadenza chat` on a real (pseudo) terminal: many turns, Ctrl-C and Ctrl-D."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.scripted import ScriptedServer, queue_full

CTRL_C, CTRL_D, ARROW_UP = b"\x03", b"\x04", b"\x1b[A"

# pty.spawn gives the command a terminal of its own and passes our bytes to it, Ctrl-C included.
ON_A_TERMINAL = """
import os, pty, sys
command = [sys.executable, "-m", "cadenza.client.cli", *sys.argv[1:]]
sys.exit(os.waitstatus_to_exitcode(pty.spawn(command)))
"""


class Terminal:
    """A command on a terminal: keys in, screen out."""

    def __init__(self, *arguments: str, target: str, state: Path, no_colour: str = "1") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "CADENZA_TARGET": target,
                "TERM": "dumb",
                "NO_COLOR": no_colour,
                "XDG_STATE_HOME": str(state),
            },
        )

    def press(self, keys: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(keys)
        self.process.stdin.flush()

    def see(self, text: str) -> str:
        """Reads the screen until this text has come; gives what came."""
        assert self.process.stdout is not None
        seen = b""
        while text.encode() not in seen:
            byte = self.process.stdout.read(1)
            assert byte, f"the command ended; before it came {seen!r}"
            seen += byte
        return seen.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.fixture
def terminal(server: ScriptedServer, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(
        "chat", "--system", "Be brief.", "--max-retries", "0", target=server.target, state=tmp_path
    )
    yield opened
    opened.close()


def contents(request: object) -> list[str]:
    return [message.content for message in request.prompt.chat.messages]  # type: ignore[attr-defined]


def test_a_conversation_remembers_its_turns(server: ScriptedServer, terminal: Terminal) -> None:
    terminal.see("> ")
    terminal.press(b"One?\n")
    terminal.see("The capital is Paris.")
    terminal.see("> ")
    terminal.press(b"  \n")
    terminal.see("> ")
    terminal.press(b"Two?\n")
    terminal.see("The capital is Paris.")
    terminal.see("> ")
    terminal.press(CTRL_D)
    assert terminal.process.wait(20) == 0
    assert [contents(request) for request in server.requests] == [
        ["Be brief.", "One?"],
        ["Be brief.", "One?", "The capital is Paris.", "Two?"],
    ]


def test_ctrl_c_cancels_the_answer_and_not_the_program(server: ScriptedServer, terminal: Terminal) -> None:
    server.hangs_after = 1
    terminal.see("> ")
    terminal.press(b"One?\n")
    terminal.see("The capital")
    terminal.press(CTRL_C)
    terminal.see("[cancelled]")
    assert server.cancelled.wait(10)
    server.hangs_after = None
    terminal.see("> ")
    terminal.press(
        CTRL_C + b"\n"
    )  # readline may see a Ctrl-C that comes with the prompt at the next key only
    terminal.see("> ")
    terminal.press(b"Two?\n")
    terminal.see(" is Paris.")
    assert contents(server.requests[1]) == ["Be brief.", "One?", "The capital", "Two?"]


def test_a_refused_turn_is_reported_and_forgotten(server: ScriptedServer, terminal: Terminal) -> None:
    server.failure = queue_full(1)
    terminal.see("> ")
    terminal.press(b"One?\n")
    terminal.see("cadenza: QUEUE_FULL: 64 requests wait; at most 64 may")
    server.failure = None
    terminal.see("> ")
    terminal.press(b"Two?\n")
    terminal.see("The capital is Paris.")
    assert contents(server.requests[-1]) == ["Be brief.", "Two?"]


def test_clear_forgets_the_conversation_but_not_the_system_message(
    server: ScriptedServer, terminal: Terminal
) -> None:
    terminal.see("> ")
    terminal.press(b"One?\n")
    terminal.see("The capital is Paris.")
    terminal.see("> ")
    terminal.press(b"/clear\n")
    terminal.see("> ")
    terminal.press(b"Two?\n")
    terminal.see("The capital is Paris.")
    assert contents(server.requests[1]) == ["Be brief.", "Two?"]


def test_the_arrow_key_finds_the_questions_of_an_earlier_conversation(
    server: ScriptedServer, tmp_path: Path
) -> None:
    for keys in (b"One?\n", ARROW_UP + b"\n"):
        terminal = Terminal("chat", target=server.target, state=tmp_path)
        terminal.see("> ")
        terminal.press(keys)
        terminal.see("The capital is Paris.")
        terminal.see("> ")
        terminal.press(CTRL_D)
        assert terminal.process.wait(20) == 0
        terminal.close()
    assert [contents(request) for request in server.requests] == [["One?"], ["One?"]]
    (file,) = tmp_path.glob("cadenza/*")
    assert file.stat().st_mode & 0o077 == 0


def test_ctrl_c_ends_a_command_that_is_no_conversation_with_exit_code_130(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.hangs_after = 1
    command = Terminal("complete", "x", target=server.target, state=tmp_path)
    command.see("The capital")
    command.press(CTRL_C)
    assert command.process.wait(20) == 130
    assert server.cancelled.wait(10)
    command.close()


def test_an_interrupt_without_a_terminal_ends_in_exit_code_130(server: ScriptedServer) -> None:
    server.hangs_after = 1
    process = subprocess.Popen(
        [sys.executable, "-m", "cadenza.client.cli", "--target", server.target, "complete", "x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert server.hanging.wait(20)
    assert process.stdout is not None
    assert process.stdout.read(11) == b"The capital"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, b"")


def test_a_command_that_lacks_its_text_does_not_wait_for_it_on_a_terminal(
    server: ScriptedServer, tmp_path: Path
) -> None:
    command = Terminal("complete", target=server.target, state=tmp_path)
    command.see("cadenza: INVALID_OPTION: text: there is none")
    assert command.process.wait(20) == 2
    command.close()


@pytest.mark.parametrize(("no_colour", "header"), [("", "\x1b[1mNAME"), ("1", "NAME")])
def test_colours_appear_on_terminals_that_want_them(
    server: ScriptedServer, tmp_path: Path, no_colour: str, header: str
) -> None:
    command = Terminal("models", target=server.target, state=tmp_path, no_colour=no_colour)
    assert command.see("NAME").endswith(header)
    command.see("tiny")
    assert command.process.wait(20) == 0
    command.close()
