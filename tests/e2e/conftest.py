"""Real server processes on the real model, one for each precision, for all end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy.demo.serving import ServerProcess, serve
from tests.real.cpu_program import CACHE

from cadenza.client import Client


@pytest.fixture(scope="session")
def server(real_int8: Path) -> Iterator[ServerProcess]:
    with serve({"smollm2": real_int8}, "--cache-dir", str(CACHE)) as process:
        yield process


@pytest.fixture(scope="session")
def float32_server(real_float32: Path) -> Iterator[ServerProcess]:
    with serve({"smollm2": real_float32}, "--cache-dir", str(CACHE)) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client
