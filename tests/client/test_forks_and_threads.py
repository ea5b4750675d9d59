"""One client in many threads, and clients on both sides of a fork."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.client.scripted import ScriptedServer

from cadenza.client import Client

# What a program does before and after os.fork(), each in turn; every ask() prints the answer or the error.
PROGRAM = """
import asyncio, os, sys
from cadenza.client import AsyncClient, CadenzaError, Client

client = Client(sys.argv[1], timeout=10)

def ask(one=client):
    try:
        return one.stream("x").collect().text + one.complete("x").text
    except CadenzaError as error:
        return error.reason

def ask_async():
    async def main():
        async with AsyncClient(sys.argv[1], timeout=10) as one:
            return (await one.complete("x")).text
    return asyncio.run(main())

{before}
child = os.fork()
if child == 0:
    {inside}
    sys.stdout.flush()
    os._exit(0)
print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print("parent", ask())
"""
ONE = "The capital is Paris."
BOTH = ONE + ONE


def run_program(server: ScriptedServer, before: str, inside: str, support: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before, inside=inside), server.target],
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": support},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("support", ["0", "1"])
def test_a_client_made_before_a_fork_and_used_after_it_works_on_both_sides(
    server: ScriptedServer, support: str
) -> None:
    lines = run_program(server, "", "print('child', ask(), ask_async())", support)
    assert lines == [f"child {BOTH} {ONE}", "exit 0", f"parent {BOTH}"]


def test_a_client_used_before_a_fork_says_in_the_child_what_to_do(server: ScriptedServer) -> None:
    lines = run_program(server, "print('before', ask())", "print('child', ask())", "0")
    assert lines == [f"before {BOTH}", "child CLIENT_FORKED", "exit 0", f"parent {BOTH}"]


def test_with_grpcs_fork_support_a_client_used_before_a_fork_works_on_both_sides(
    server: ScriptedServer,
) -> None:
    inside = "print('child', ask(), ask(Client(sys.argv[1])))"
    lines = run_program(server, "print('before', ask())", inside, "1")
    assert lines == [f"before {BOTH}", f"child {BOTH} {BOTH}", "exit 0", f"parent {BOTH}"]


def test_threads_share_a_client(server: ScriptedServer) -> None:
    def ask(number: int) -> tuple[str, str]:
        stream = client.stream(str(number), request_id=f"stream-{number}")
        return stream.collect().text, client.complete(str(number)).text

    with Client(server.target) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(100)))
    assert answers == [(ONE, ONE)] * 100
    assert len(server.requests) == 200
    assert len({metadata["x-request-id"] for metadata in server.metadata}) == 200
