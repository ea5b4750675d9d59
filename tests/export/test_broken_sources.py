"""Damaged weight files are refused in one line before anything is allocated or TensorFlow is loaded."""

import contextlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.export import tiny

from cadenza.export.errors import ExportError
from cadenza.export.exporter import open_source

SIZES = tiny.Tiny(layers=1)
ABSURD = (0, 2**40, 2**60, 2**63, 2**64 - 1)
# Room for the interpreter and its libraries, none for what a file may claim to hold.
REFUSED_WITHIN_LIMITS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from cadenza.export.__main__ import main
code = main([sys.argv[1], "--output", sys.argv[2]])
assert "tensorflow" not in sys.modules
sys.exit(code)
"""


def refusal(source: Path, models: Path) -> str:
    """The one line that a process with little memory and time refuses the source with."""
    command = [sys.executable, "-c", REFUSED_WITHIN_LIMITS, str(source), str(models / "tiny/1")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    assert not models.exists()
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folder") / "source"
    return tiny.write_hugging_face(path, SIZES, tiny.random_weights(SIZES))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return tiny.write_gguf(path, SIZES, tiny.random_weights(SIZES))


@pytest.fixture(scope="module")
def whole_safetensors(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole_gguf(gguf_file: Path) -> bytes:
    return gguf_file.read_bytes()


def safetensors(whole: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with its header's JSON changed in place."""
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


def first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = header["model.norm.weight"]
    return entry


def overlap(header: dict[str, Any]) -> None:
    norms = [name for name in header if name.endswith("layernorm.weight")]
    header[norms[0]]["data_offsets"] = header[norms[1]]["data_offsets"]


@pytest.mark.parametrize(
    "change",
    [
        lambda header: first(header).update(dtype="F31"),
        lambda header: first(header).update(shape=[65]),
        lambda header: first(header).update(shape=[2**40, 2**40]),
        lambda header: first(header).update(data_offsets=[0, 2**60]),
        lambda header: first(header).update(data_offsets=[256, 0]),
        lambda header: header.update(more={"dtype": "F32", "shape": [1], "data_offsets": [10**9, 10**9 + 4]}),
        overlap,
        lambda header: header.clear(),
    ],
    ids=["number format", "shape", "product", "offset", "backwards", "behind the file", "overlap", "empty"],
)
def test_safetensors_header_that_contradicts_its_file_is_refused(
    tmp_path: Path, folder: Path, whole_safetensors: bytes, change: Callable[[dict[str, Any]], object]
) -> None:
    broken = copied(folder, tmp_path, safetensors(whole_safetensors, change))
    with pytest.raises(ExportError, match=r"model\.safetensors is no readable safetensors file"):
        open_source(broken)


@pytest.mark.parametrize("length", ABSURD)
def test_safetensors_header_of_an_absurd_length_is_refused(
    tmp_path: Path, folder: Path, whole_safetensors: bytes, length: int
) -> None:
    broken = copied(folder, tmp_path, struct.pack("<Q", length) + whole_safetensors[8:])
    with pytest.raises(ExportError, match=r"model\.safetensors is no readable safetensors file"):
        open_source(broken)


def copied(folder: Path, tmp_path: Path, weights: bytes) -> Path:
    """The model folder with other weights."""
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((folder / name).read_bytes())
    (source / "model.safetensors").write_bytes(weights)
    return source


@pytest.mark.parametrize("value", ABSURD[1:])
@pytest.mark.parametrize(("what", "place"), [("tensors", 8), ("metadata entries", 16)])
def test_gguf_file_of_an_absurd_count_is_refused(
    tmp_path: Path, whole_gguf: bytes, what: str, place: int, value: int
) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(whole_gguf[:place] + struct.pack("<Q", value) + whole_gguf[place + 8 :])
    with pytest.raises(ExportError, match=f"claims {value} {what}") as refused:
        open_source(path)
    assert len(str(refused.value)) < 400


def after(whole: bytes, name: str) -> int:
    """Where the bytes behind a name begin."""
    return whole.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("dimension", [0, 1])
def test_gguf_tensor_of_an_absurd_dimension_is_named(
    tmp_path: Path, whole_gguf: bytes, dimension: int, value: int
) -> None:
    place = after(whole_gguf, "blk.0.ffn_up.weight") + 4 + 8 * dimension
    path = tmp_path / "tiny.gguf"
    path.write_bytes(whole_gguf[:place] + struct.pack("<Q", value) + whole_gguf[place + 8 :])
    with pytest.raises(ExportError, match=r"tensor blk\.0\.ffn_up\.weight with shape|has shape"):
        open_source(path)


def test_gguf_tensor_of_a_wrong_shape_is_named_with_both(tmp_path: Path) -> None:
    weights = tiny.random_weights(SIZES)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name][:-1].copy()
    path = tiny.write_gguf(tmp_path / "tiny.gguf", SIZES, weights)
    with pytest.raises(
        ExportError, match=r"blk\.0\.ffn_up\.weight has shape \[95, 64\]; expected \[96, 64\]"
    ):
        open_source(path)


@pytest.mark.parametrize("value", [2**40, 2**60, 2**63, 2**64 - 1])
@pytest.mark.parametrize(
    ("name", "place"),
    [("tokenizer.ggml.tokens", 8), ("tokenizer.ggml.token_type", 8), ("tokenizer.ggml.model", 4)],
    ids=["strings", "numbers", "text"],
)
def test_gguf_metadata_of_an_absurd_length_is_named(
    tmp_path: Path, whole_gguf: bytes, name: str, place: int, value: int
) -> None:
    place += after(whole_gguf, name)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(whole_gguf[:place] + struct.pack("<Q", value) + whole_gguf[place + 8 :])
    with pytest.raises(ExportError, match=name):
        open_source(path)


def test_absurd_sizes_are_refused_with_little_memory_and_before_tensorflow(
    tmp_path: Path, folder: Path, whole_gguf: bytes, whole_safetensors: bytes
) -> None:
    place = after(whole_gguf, "blk.0.ffn_up.weight") + 4
    path = tmp_path / "tiny.gguf"
    path.write_bytes(whole_gguf[:place] + struct.pack("<QQ", 2**31, 2**31) + whole_gguf[place + 16 :])
    assert "tensor blk.0.ffn_up.weight" in refusal(path, tmp_path / "models")
    huge = safetensors(whole_safetensors, lambda header: first(header).update(shape=[2**40]))
    assert "safetensors" in refusal(copied(folder, tmp_path, huge), tmp_path / "models")


def damage(whole: bytes, header: int, draw: st.DrawFn) -> bytes:
    """A few bytes or numbers of the header replaced, or the file cut off."""
    if draw(st.booleans()):
        return whole[: draw(st.one_of(st.integers(0, header), st.integers(0, len(whole) - 1)))]
    broken = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, header - 8))
        new = draw(st.one_of(st.binary(min_size=1, max_size=1), st.sampled_from(ABSURD).map(_number)))
        broken[place : place + len(new)] = new
    return bytes(broken)


def _number(value: int) -> bytes:
    return struct.pack("<Q", value)


FUZZ = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


@FUZZ
@given(data=st.data())
def test_damaged_gguf_file_is_read_or_refused(data: st.DataObject, tmp_path: Path, whole_gguf: bytes) -> None:
    path = tmp_path / "tiny.gguf"
    header = whole_gguf.index(b"output_norm.weight") + 64
    path.write_bytes(data.draw(st.composite(lambda draw: damage(whole_gguf, header, draw))()))
    read_or_refuse(path)


@FUZZ
@given(data=st.data())
def test_damaged_safetensors_file_is_read_or_refused(
    data: st.DataObject, tmp_path: Path, folder: Path, whole_safetensors: bytes
) -> None:
    (length,) = struct.unpack("<Q", whole_safetensors[:8])
    broken = data.draw(st.composite(lambda draw: damage(whole_safetensors, 8 + length, draw))())
    read_or_refuse(copied(folder, tmp_path, broken))


def read_or_refuse(source: Path) -> None:
    """Anything but an ExportError is a defect."""
    with contextlib.suppress(ExportError):
        open_source(source)


@pytest.mark.parametrize("name", ["absent.safetensors", "../model.safetensors", "", "..", "\0", 7, ["x"]])
def test_index_that_names_no_file_of_the_folder_is_refused(
    tmp_path: Path, folder: Path, name: object
) -> None:
    source = copied(folder, tmp_path, b"")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ExportError, match="which is not in the folder"):
        open_source(source)
