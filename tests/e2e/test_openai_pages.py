"""The curl commands of the README and of docs/openai.md, and that page's Python, as a reader pastes them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.demo.serving import ServerProcess

pytestmark = pytest.mark.real_model

ROOT = Path(__file__).parents[2]
PAGES = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/openai.md"))
SHELL = [block for block in re.findall(r"```sh\n(.*?)```", PAGES, re.DOTALL) if "curl" in block]
COMMANDS = [f"curl {command}" for block in SHELL for command in block.split("curl ")[1:]]
PYTHON = re.findall(r"```python\n(from openai .*?)```", PAGES, re.DOTALL)


def _here(example: str, server: ServerProcess) -> str:
    """The example for the tests' server, which calls its model otherwise."""
    assert "http://localhost:8501/v1" in example
    return example.replace("localhost:8501", f"localhost:{server.http_port}").replace(
        "smollm2-135m", "smollm2"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_the_pages_curl_commands_are_answered(command: str, server: ServerProcess) -> None:
    shell = _here(command, server).replace("curl ", "curl --silent --show-error --fail ", 1)
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    if "-N" in command:
        *events, last = re.findall(r"^data: (.*)$", done.stdout, re.MULTILINE)
        assert last == "[DONE]"
        assert "".join(json.loads(event)["choices"][0]["text"] for event in events).strip()
    else:
        answer = json.loads(done.stdout)
        assert answer.get("choices") or answer["data"]


@pytest.mark.parametrize("example", PYTHON)
def test_the_pages_python_streams_an_answer(example: str, server: ServerProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _here(example, server)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10


def test_the_pages_have_their_examples() -> None:
    assert (len(COMMANDS), len(PYTHON)) == (4, 1)
