"""Ctrl-C in a program that uses the synchronous client: the call ends, the client lives on."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from tests.client.scripted import ScriptedServer

from cadenza.client import Cancelled, Client, Stream

WAIT = 10


@contextmanager
def interrupted_within(call: Callable[..., Any], event: threading.Event) -> Iterator[None]:
    """Sends the main thread Ctrl-C's signal once the event is set and the thread is in `call`."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(_: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is call.__code__:
                raise KeyboardInterrupt
            frame = frame.f_back
        send_soon()

    def send_soon() -> None:
        threading.Timer(0.02, send).start()

    def send() -> None:
        event.wait(WAIT)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, interrupt)
    send_soon()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("messages", [0, 1])
def test_ctrl_c_ends_a_stream_here_and_on_the_server(
    server: ScriptedServer, client: Client, messages: int
) -> None:
    server.hangs_after = messages
    stream = client.stream("x")
    with interrupted_within(Stream.__next__, server.hanging):
        stream.collect()
    assert server.cancelled.wait(WAIT)
    with pytest.raises(Cancelled):
        next(stream)
    server.hangs_after = None
    assert client.stream("x").collect().text == "The capital is Paris."


def test_ctrl_c_while_one_chunk_is_read_leaves_a_stream_that_says_it_was_cancelled(
    server: ScriptedServer, client: Client
) -> None:
    server.hangs_after = 0
    stream = client.stream("x")
    with interrupted_within(Stream.__next__, server.hanging):
        next(stream)
    assert server.cancelled.wait(WAIT)
    with pytest.raises(Cancelled):
        next(stream)


def test_ctrl_c_ends_a_unary_call_here_and_on_the_server(server: ScriptedServer, client: Client) -> None:
    server.hangs_after = 0
    with interrupted_within(Client.complete, server.hanging):
        client.complete("x")
    assert server.cancelled.wait(WAIT)
    server.hangs_after = None
    assert client.complete("x").text == "The capital is Paris."


MANY_INTERRUPTS = """
import random, signal, sys, threading
from cadenza.client import Client

main = threading.main_thread().ident
chance = random.Random(7)
with Client(sys.argv[1], timeout=20) as client:
    client.complete("x")
    for _ in range(100):
        signal_after = threading.Timer(chance.uniform(0.0, 0.005), signal.pthread_kill, (main, signal.SIGINT))
        try:
            signal_after.start()
            while True:
                for chunk in client.stream("x"):
                    pass
        except KeyboardInterrupt:
            pass
    print(client.stream("x").collect().text)
"""


def test_a_hundred_interrupts_at_any_moment_leave_a_client_that_works(server: ScriptedServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY_INTERRUPTS, server.target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "The capital is Paris.\n"), done.stderr
