"""The wheel in a bare environment: the SDK works on its base dependencies alone and lands under `cadenza`."""

import dataclasses
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")

PROBE = """
import importlib.util, sys, time
start = time.perf_counter()
import cadenza.client
seconds = time.perf_counter() - start
import cadenza.v1.completion_pb2_grpc
for name in ("tensorflow", "numpy", "rich"):
    assert importlib.util.find_spec(name) is None, name
assert cadenza.client.__file__.startswith(sys.prefix), cadenza.client.__file__
print(f"{seconds:.3f}")
"""


@dataclasses.dataclass(frozen=True)
class Installed:
    """A venv that holds the wheel and its base dependencies."""

    wheel: Path
    venv: Path

    def run(self, program: str, *arguments: str) -> str:
        """Runs a program of the venv, away from the sources; gives its stdout."""
        command = [str(self.venv / "bin" / program), *arguments]
        done = subprocess.run(command, cwd=self.venv, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def packages(self) -> set[str]:
        """What lies at the top of site-packages."""
        (site,) = self.venv.glob("lib/python*/site-packages")
        return {path.name for path in site.iterdir()}


def run_uv(*arguments: str | Path) -> None:
    """Runs uv; what pip is configured to install from holds for it too."""
    pip_index = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    environment = {**os.environ, **({"UV_DEFAULT_INDEX": pip_index} if pip_index else {})}
    done = subprocess.run(
        [UV, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    run_uv("build", "--wheel", "--python", sys.executable, "--out-dir", folder)
    (wheel,) = folder.glob("cadenza-*.whl")
    venv = folder / "venv"
    run_uv("venv", "--python", sys.executable, venv)
    lock = ROOT / "requirements.lock"
    run_uv("pip", "install", "--python", venv / "bin" / "python", "--constraint", lock, wheel)
    return Installed(wheel, venv)


def test_the_sdk_imports_without_tensorflow_and_numpy(installed: Installed) -> None:
    print(f"import cadenza.client: {installed.run('python', '-c', PROBE).strip()} s")


def test_the_sdk_with_all_it_needs_is_below_40_mb(installed: Installed) -> None:
    (site,) = installed.venv.glob("lib/python*/site-packages")
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    assert size < 40_000_000


def test_the_command_runs(installed: Installed) -> None:
    assert "Complete prompts and chat" in installed.run("cadenza", "--help")
    assert installed.run("cadenza", "--version").startswith("cadenza 0.")


def test_the_load_tester_names_the_extra_that_it_needs(installed: Installed) -> None:
    assert "--sweep" in installed.run("cadenza", "load", "--help")
    probe = "from cadenza.client.cli import main; assert main(['load', '--rate', '1']) == 2"
    installed.run("python", "-c", probe)


def test_nothing_generic_lands_in_site_packages(installed: Installed) -> None:
    names = installed.packages()
    assert "cadenza" in names
    assert names.isdisjoint({"server", "client", "proto", "model_export", "deploy", "tests"})


def test_the_wheel_is_one_typed_namespace(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cadenza"}
    assert "cadenza/__init__.py" not in names
    assert {
        "cadenza/client/py.typed",
        "cadenza/load/py.typed",
        "cadenza/v1/py.typed",
        "cadenza/kserve/py.typed",
    } <= set(names)
    for module in ("v1/completion", "kserve/inference"):
        assert {f"cadenza/{module}_pb2.pyi", f"cadenza/{module}_pb2_grpc.pyi"} <= set(names)
