"""Stream three answers at once from one asyncio program."""

import asyncio
import os

from cadenza.client import AsyncClient

COUNTRIES = ("France", "Italy", "Japan")


async def ask(client: AsyncClient, country: str) -> str:
    """The answer for one country."""
    question = f"What is the capital of {country}?"
    async with client.stream_chat(question, temperature=0, max_tokens=32) as stream:
        return "".join([piece async for piece in stream.text()])


async def main() -> None:
    """Asks for all countries together."""
    async with AsyncClient(os.environ.get("CADENZA_TARGET", "localhost:8500")) as client:
        for answer in await asyncio.gather(*(ask(client, country) for country in COUNTRIES)):
            print(answer)


asyncio.run(main())
