"""The README's Python, as a reader would paste it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.demo.serving import ServerProcess

pytestmark = pytest.mark.real_model

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_readmes_example_runs(example: str, server: ServerProcess) -> None:
    assert '"localhost:8500"' in example
    program = example.replace("localhost:8500", server.target)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readme_has_its_examples() -> None:
    assert len(EXAMPLES) == 5
