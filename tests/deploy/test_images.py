"""Dockerfiles are clean, build from what the context holds, and install what is locked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.chart import ROOT, render

from cadenza.server.config import Settings

IMAGE = ROOT / "deploy" / "image"
DOCKERFILES = sorted(IMAGE.glob("*.Dockerfile"))
TENSORBOARD = {"tensorboard", "tensorboard-data-server", "markdown", "pillow"}
"""What TensorFlow 2.20, the newest for TPUs, still asks for."""


def instructions(dockerfile: Path) -> list[str]:
    """The instructions, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    return [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]


def pins(lock: Path) -> set[tuple[str, str]]:
    """Packages with their versions; a lock for several Pythons may have several."""
    return set(
        re.findall(r"^([a-z0-9][\w.-]*)(?:\[.*?\])?==([\w.+-]+)", lock.read_text(), flags=re.MULTILINE)
    )


def test_there_is_an_image_for_each_profile_of_the_chart_and_for_prepared_models() -> None:
    assert [path.stem for path in DOCKERFILES] == ["cpu", "gpu", "prepared", "tpu"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_has_no_complaint(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--config", ROOT / ".hadolint.yaml", dockerfile],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["cpu", "gpu", "tpu"])
def test_the_context_holds_what_is_copied_and_little_else(name: str) -> None:
    held = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for line in instructions(IMAGE / f"{name}.Dockerfile")
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied <= held
    assert all((ROOT / source).exists() for source in held)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_nothing_runs_as_root(dockerfile: Path) -> None:
    users = [line for line in instructions(dockerfile) if line.startswith("USER ")]
    assert users == ([] if dockerfile.stem == "prepared" else ["USER 10001:10001"])


def test_images_run_as_the_user_of_the_chart() -> None:
    security = render().pod["securityContext"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in instructions(IMAGE / "cpu.Dockerfile")


def test_the_images_own_flags_are_flags_of_the_server() -> None:
    for name in ("cpu", "gpu", "tpu"):
        (command,) = [line for line in instructions(IMAGE / f"{name}.Dockerfile") if line.startswith("CMD ")]
        settings = Settings.from_command_line(re.findall(r'"([^"]+)"', command))
        assert (settings.models, settings.cache_dir, settings.health_port) == (
            Path("/models"),
            Path("/cache"),
            8502,
        )


def test_the_cpu_image_installs_no_tensorflow() -> None:
    (extras,) = [line for line in instructions(IMAGE / "cpu.Dockerfile") if line.startswith("ARG EXTRAS")]
    assert extras == 'ARG EXTRAS="server load tracing"'


def test_the_gpu_image_has_the_versions_that_are_tested() -> None:
    others = pins(IMAGE / "cuda.lock") - pins(ROOT / "requirements.lock")
    assert others, "the CUDA libraries are in no other lock"
    assert [name for name, _ in others if not name.startswith("nvidia-")] == [], "run `make lock`"


def test_the_tpu_image_differs_by_tensorflows_build_for_tpus_alone() -> None:
    others = pins(IMAGE / "tpu.lock") - pins(ROOT / "requirements.lock")
    assert {name for name, _ in others} == {"tensorflow-tpu", "libtpu", *TENSORBOARD}, "run `make lock`"
