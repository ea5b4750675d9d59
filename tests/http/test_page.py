"""A chat page of another origin, in a real browser."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest
from tests.http.browser import chat, chromium
from tests.server.live import live_server
from tests.server.scripted_runner import ScriptedRunner


@pytest.mark.skipif(shutil.which("chromium") is None, reason="deploy/setup/chromium.sh could not install it")
async def test_a_chat_page_in_chromium_shows_the_answer_as_it_streams(artifact: Path) -> None:
    def shown(port: int) -> str:
        with chromium() as tab:
            return chat(tab, port, "hi")

    async with live_server(artifact, ScriptedRunner(step_seconds=0.05), allowed_origin="*") as live:
        page = await asyncio.to_thread(shown, live.ports.http)
    assert '<p class="user">hi</p>' in page
    answer = re.search(r'<p class="assistant" data-pieces="(\d+)">(\w+)</p>', page)
    assert answer is not None, page
    assert answer[2] == "bcdef"
    assert int(answer[1]) > 1
