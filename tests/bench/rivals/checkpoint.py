"""Writes the weights in the formats that rivals read, all from the GGUF that the exporter reads.

`python -m tests.bench.rivals.checkpoint GGUF FORMAT OUTPUT`, in the environment of tests/parity. The weights
are dequantised first: no engine gets the 4-bit file itself.
"""

import sys
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from tests.parity.oracle import Oracle

GGUF_TYPES: Final = {
    "gguf-float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "gguf-bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "gguf-q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_REPLACED: Final = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def write_checkpoint(source: Path, output: Path) -> None:
    """Writes a folder that transformers loads: float32 weights, settings and tokenizer."""
    oracle = Oracle(source)
    oracle._model.save_pretrained(output)
    oracle.tokenizer.save_pretrained(output)


def write_gguf(source: Path, output: Path, name: str) -> None:
    """Writes a GGUF with all matrices of one type; norms, which have one dimension, stay float32."""
    kind, file_type = GGUF_TYPES[name]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(output, reader.fields["general.architecture"].contents())
    writer.add_file_type(file_type)
    if kind is gguf.GGMLQuantizationType.Q8_0:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for field in reader.fields.values():
        if not field.name.startswith(_REPLACED):
            _copy(field, writer)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        matrix = weights.ndim > 1
        used = kind if matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(weights, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy(field: Any, writer: Any) -> None:
    kind = field.types[0]
    element = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), kind, sub_type=element)


def main() -> None:
    """Writes one format."""
    source, name, output = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    if name == "transformers":
        write_checkpoint(source, output)
    else:
        write_gguf(source, output, name)


if __name__ == "__main__":
    main()
