"""Exports made once for all tests of this folder: they take seconds each."""

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tests.export import tiny
from tests.export.tiny import Array, Tiny, Weights

from cadenza.export.exporter import export
from cadenza.export.model import Precision


@dataclasses.dataclass(frozen=True)
class Exported:
    """An artifact and what it was made of."""

    artifact: Path
    source: Path
    tiny: Tiny
    weights: Weights
    frequencies: Array


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def grouped_tied_int8(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Grouped-query attention, a tied head, one float32 file, exported as int8."""
    folder = tmp_path_factory.mktemp("int8")
    sizes = tiny.Tiny()
    weights = tiny.random_weights(sizes)
    source = tiny.write_hugging_face(folder / "source", sizes, weights)
    export(source, folder / "model/1", Precision.INT8)
    return Exported(folder / "model/1", source, sizes, weights, sizes.frequencies)


@pytest.fixture(scope="session")
def gguf_float32(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The same weights from an interleaved GGUF file, exported as float32."""
    folder = tmp_path_factory.mktemp("gguf")
    sizes = tiny.Tiny()
    weights = tiny.random_weights(sizes)
    source = tiny.write_gguf(folder / "tiny.gguf", sizes, weights)
    export(source, folder / "model/1", Precision.FLOAT32)
    return Exported(folder / "model/1", source, sizes, weights, sizes.frequencies)


@pytest.fixture(scope="session")
def separate_scaled_float32(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A key head for each query head, a head of its own, bfloat16 shards, Llama 3's rotary scaling, a bos."""
    folder = tmp_path_factory.mktemp("scaled")
    sizes = tiny.Tiny(layers=1, kv_heads=4, tied=False)
    stored = {name: array.astype(ml_dtypes.bfloat16) for name, array in tiny.random_weights(sizes).items()}
    config = {"rope_scaling": LLAMA3}
    source = tiny.write_hugging_face(
        folder / "source", sizes, stored, config=config, shards=2, bos="<|im_start|>"
    )
    export(source, folder / "model/1", Precision.FLOAT32)
    weights = {name: array.astype(np.float32) for name, array in stored.items()}
    return Exported(folder / "model/1", source, sizes, weights, llama3_frequencies(sizes.frequencies))


def llama3_frequencies(plain: tiny.Array) -> tiny.Array:
    """Llama 3.1's rule, case by case: long wavelengths are slowed, short ones kept, those between blended."""
    factor, low, high, original = LLAMA3["factor"], 1.0, 4.0, 64
    scaled = []
    for frequency in plain:
        wavelength = 2 * np.pi / frequency
        if wavelength > original / low:
            scaled.append(frequency / factor)
        elif wavelength < original / high:
            scaled.append(frequency)
        else:
            kept = (original / wavelength - low) / (high - low)
            scaled.append((1 - kept) * frequency / factor + kept * frequency)
    return np.array(scaled)
