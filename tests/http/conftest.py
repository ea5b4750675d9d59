"""A live server with a scripted runner, and OpenAI's own clients of it."""

from collections.abc import AsyncIterator

import openai
import pytest
from tests.http.clients import base_url
from tests.server.conftest import artifact, live, runner
from tests.server.live import Live

__all__ = ["artifact", "live", "runner"]


@pytest.fixture
async def client(live: Live) -> AsyncIterator[openai.AsyncOpenAI]:
    """The async client, which tries nothing again."""
    async with openai.AsyncOpenAI(base_url=base_url(live), api_key="none", max_retries=0) as one:
        yield one
