"""The chat page in headless Chromium, driven by the DevTools protocol over a pipe.

Usage: python -m tests.http.browser. Takes docs/images/chat.png of the page with the real model.
"""

import base64
import itertools
import json
import os
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from deploy.demo.models import ARTIFACTS, CACHE, ROOT
from deploy.demo.serving import serve

PAGE = ROOT / "client" / "examples" / "chat.html"
SCREENSHOT = ROOT / "docs" / "images" / "chat.png"
QUESTION = "What is a good name for a cat?"
_SECONDS = 60


class Tab:
    """A page in the browser."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self._commands = commands
        self._answers = answers
        self._ids = itertools.count()
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def open(self, url: str) -> None:
        """Waits until the page is loaded."""
        self.call("Page.navigate", url=url)
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script: str) -> Any:
        """The script's value; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method of the protocol."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != number:
            pass
        return answer["result"]

    def _read(self) -> Any:
        """The next message; each ends with a NUL byte."""
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise EOFError("Chromium has ended")
            message += byte
        return json.loads(message)


@contextmanager
def chromium() -> Iterator[Tab]:
    """A browser with one page; it is ended after a minute, whatever it does."""
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        os.fdopen(from_us, "wb") as commands,
        os.fdopen(to_us, "rb") as answers,
    ):
        exec_it = f'exec chromium "$@" 3<&{to_browser} 4>&{from_browser}'
        command = [
            "timeout", str(_SECONDS), "bash", "-c", exec_it, "bash",
            "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=760,480",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Tab(commands, answers)
        finally:
            process.terminate()
            process.wait()


def chat(tab: Tab, port: int, say: str) -> str:
    """What the page shows when its first message has been answered, as HTML."""
    location = urllib.parse.urlencode({"server": f"http://127.0.0.1:{port}", "say": say})
    tab.open(f"{PAGE.as_uri()}#{location}")
    shown: str = tab.evaluate("answered.then(() => document.getElementById('chat').innerHTML)")
    return shown


def main() -> None:
    """Takes the screenshot."""
    flags = ("--cache-dir", str(CACHE / "server"), "--allowed-origin", "*")
    with serve({"smollm2": ARTIFACTS["int8"]}, *flags) as server, chromium() as tab:
        chat(tab, server.http_port, QUESTION)
        SCREENSHOT.parent.mkdir(exist_ok=True)
        SCREENSHOT.write_bytes(base64.b64decode(tab.call("Page.captureScreenshot")["data"]))


if __name__ == "__main__":
    main()
