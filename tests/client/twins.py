"""Both clients under one interface, so that one test holds for the two."""

from collections.abc import Awaitable
from typing import Any

from cadenza.client import AsyncClient, Client


class SyncTwin:
    """`Client`, its results given at once."""

    def __init__(self, target: str, **options: Any) -> None:
        self.client = Client(target, **options)

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        result = getattr(self.client, name)(*args, **options)
        return result.collect() if hasattr(result, "collect") else result

    async def close(self) -> None:
        self.client.close()


class AsyncTwin:
    """`AsyncClient`, its results awaited."""

    def __init__(self, target: str, **options: Any) -> None:
        self.client = AsyncClient(target, **options)

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        result = getattr(self.client, name)(*args, **options)
        return await (result if isinstance(result, Awaitable) else result.collect())

    async def close(self) -> None:
        await self.client.close()


Twin = SyncTwin | AsyncTwin
