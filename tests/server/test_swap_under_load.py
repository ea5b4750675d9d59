"""Versions change while many streams run: no stream fails, and none has a token of another version."""

import asyncio
import string
from collections.abc import Sequence
from pathlib import Path

from tests.checked_streams import CheckedStreams, TokenIds, Work
from tests.server.artifacts import write_artifact
from tests.server.models_folder import END, continued, folder_server

STREAMS = 16
PROMPTS = [(ord(letter),) for letter in string.ascii_lowercase[:STREAMS]]
TOKENS = 30


def _expected(version: int) -> Sequence[TokenIds]:
    return [tuple(continued(chr(letter), version, TOKENS).encode()) for (letter,) in PROMPTS]


async def test_three_swaps_under_sixteen_streams_leave_every_stream_whole_and_of_one_version(
    tmp_path: Path,
) -> None:
    write_artifact(tmp_path / "tiny" / "1")
    async with folder_server(tmp_path, step_seconds=0.002) as folder:
        traffic = CheckedStreams(folder.stub, "tiny", Work(PROMPTS, TOKENS), _expected)
        stop = asyncio.Event()
        running = asyncio.ensure_future(traffic.run(STREAMS, stop))
        for version in (1, 2, 3, 4):
            if version > 1:
                folder.add(version)
                await folder.look()
            await traffic.until_whole(version, 2 * STREAMS)
        stop.set()
        await running
        assert traffic.failures == []
        assert set(traffic.by_version) == {1, 2, 3, 4}
        for version in (1, 2, 3):
            await folder.until_state(version, END)
            assert folder.runners["tiny", version].closed
