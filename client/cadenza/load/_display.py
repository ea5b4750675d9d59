"""A running load on a terminal; nothing where stderr is none."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cadenza.load._counts import FAILED, FINISHED, SENT, TOKENS, LiveCounts

_REFRESH_SECONDS: Final = 0.5


class TerminalDisplay:
    """One line that is written anew twice a second."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.asynccontextmanager
    async def showing(self, label: str, seconds: float | None, counts: LiveCounts) -> AsyncIterator[None]:
        """Shows the load for as long as the context lasts."""
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
        )
        with Progress(*columns, console=self._console, transient=True, auto_refresh=False) as progress:
            line = progress.add_task(label, total=seconds, now="")
            refresh = asyncio.create_task(_refresh(progress, line, counts))
            try:
                yield
            finally:
                refresh.cancel()


async def _refresh(progress: Progress, line: TaskID, counts: LiveCounts) -> NoReturn:
    before = 0
    while True:
        tokens = counts.total(TOKENS)
        now = (
            f"{counts.total(SENT):,} sent, {counts.running:,} running, {counts.total(FINISHED):,} done, "
            f"{counts.total(FAILED):,} failed, {(tokens - before) / _REFRESH_SECONDS:,.0f} tokens/s"
        )
        before = tokens
        progress.update(line, completed=progress.tasks[0].elapsed or 0.0, now=now, refresh=True)
        await asyncio.sleep(_REFRESH_SECONDS)
