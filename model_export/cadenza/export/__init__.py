"""Exports GPT-style decoders to the artifact that Cadenza serves: a SavedModel and its CPU program.

`cadenza-export` is the command; `cadenza.export.exporter.export` is the same from Python.
"""

from cadenza.export.errors import (
    ExportError,
    OutputError,
    SourceError,
    TensorError,
    TokenizerError,
    UnsupportedModelError,
)

__all__ = [
    "ExportError",
    "OutputError",
    "SourceError",
    "TensorError",
    "TokenizerError",
    "UnsupportedModelError",
]
