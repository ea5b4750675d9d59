"""The README's Python, and that of docs/tensorflow-serving.md, as a reader would paste it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.demo.serving import ServerProcess

pytestmark = pytest.mark.real_model

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/tensorflow-serving.md")
EXAMPLES = [
    example
    for page in PAGES
    for example in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_pages_example_runs(example: str, server: ServerProcess) -> None:
    assert '"localhost:8500"' in example
    program = example.replace("localhost:8500", server.target)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_pages_have_their_examples() -> None:
    assert len(EXAMPLES) == 6
