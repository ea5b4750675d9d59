"""Which runner computes on which device, as the flags say and the machine has it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from cadenza.server.errors import StartupError
from cadenza.server.runner.devices import Backend, Devices, accelerator_is_likely, choose_devices


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A machine without any device file that matters."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").touch()
    return tmp_path


def test_a_machine_without_devices_and_variables_has_no_accelerator(bare: Path) -> None:
    assert not accelerator_is_likely(bare, {"PATH": "/bin"})


@pytest.mark.parametrize("file", ["nvidia0", "accel0", "vfio/3"])
def test_device_files_are_a_reason_to_ask_tensorflow(bare: Path, file: str) -> None:
    path = bare / "dev" / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert accelerator_is_likely(bare, {})


def test_drivers_control_files_alone_are_no_accelerator(bare: Path) -> None:
    (bare / "dev/nvidiactl").touch()
    (bare / "dev/vfio").mkdir()
    (bare / "dev/vfio/vfio").touch()
    assert not accelerator_is_likely(bare, {})


def test_variables_of_a_tpu_machine_are_a_reason_too(bare: Path) -> None:
    assert accelerator_is_likely(bare, {"TPU_WORKER_ID": "0"})


def test_the_cpu_is_litert_unless_tensorflow_is_asked_for() -> None:
    assert choose_devices("cpu", "auto") == Devices(Backend.CPU_PROGRAM)
    assert choose_devices("cpu", "litert") == Devices(Backend.CPU_PROGRAM)
    assert choose_devices("auto", "litert") == Devices(Backend.CPU_PROGRAM)
    assert choose_devices("cpu", "tensorflow") == Devices(Backend.TENSORFLOW_CPU)


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_litert_on_an_accelerator_is_refused(device: str) -> None:
    with pytest.raises(StartupError, match="leave it out"):
        choose_devices(device, "litert")  # type: ignore[arg-type]


def test_without_tensorflow_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(StartupError, match=r"pip install 'cadenza\[server,tensorflow\]'"):
        choose_devices("gpu", "auto")


def test_choosing_litert_imports_no_tensorflow() -> None:
    code = (
        "import sys; from cadenza.server.runner.devices import choose_devices; choose_devices('cpu', 'auto');"
        "from cadenza.server.runner.loading import CpuLoader; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
