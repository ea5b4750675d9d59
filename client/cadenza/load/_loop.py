"""The event loop of the generator: the faster it is, the less of the server's cores it takes."""

import asyncio

try:
    import uvloop
except ImportError:  # there is none for this system
    uvloop = None  # type: ignore[assignment]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, else asyncio's own."""
    return asyncio.new_event_loop() if uvloop is None else uvloop.new_event_loop()
