"""Everything of an artifact that holds weights: the CPU program, the embedding table, the SavedModel.

Weights are read twice: one table or layer at a time for the CPU program, then all of them for the SavedModel.
So the peak of memory is one float32 copy of the model, or the conversion of its largest part, the head.
"""

import dataclasses
import gc
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import tensorflow as tf
from rich.progress import Progress

from cadenza.export import cpu_program
from cadenza.export.model import (
    Affine,
    Blueprint,
    DecoderWeights,
    FloatArray,
    LayerWeights,
    Parts,
    Precision,
    TensorSource,
)
from cadenza.export.smoothing import Smoother
from cadenza.export.stored import LayerIndex
from cadenza.v1 import manifest_pb2

_EMBEDDING = "embedding.npy"
_POSITIONS = "position_embedding.npy"


@dataclasses.dataclass(frozen=True)
class Written:
    """What is in memory and on disk once the CPU program is written."""

    weights: DecoderWeights[tf.Variable]
    """Of the SavedModel: float32, or bfloat16."""
    cpu: manifest_pb2.CpuProgram


def write_cpu_program(
    blueprint: Blueprint,
    source: TensorSource,
    folder: Path,
    precision: Precision,
    progress: Progress,
    calibration: Sequence[Sequence[int]] = (),
) -> Written:
    """Writes the CPU program to `folder` and loads all weights.

    An int8 program is made of smoothed weights (see smoothing.py); `calibration` holds the token ids of the
    texts whose activations are looked at, each not empty.

    Raises:
        TensorError: a tensor cannot be read or holds numbers that are not finite.
    """
    writer = _Writer(blueprint, source, folder, precision, progress, calibration)
    writer.convert()
    program = manifest_pb2.CpuProgram(
        precision=manifest_pb2.Precision.Value(f"PRECISION_{precision.name}"),
        segments=writer.segments,
        head=writer.head,
        embedding=_EMBEDDING,
        position_embedding="" if blueprint.weights.positions is None else _POSITIONS,
        layers=writer.index.write(folder),
    )
    return Written(writer.load_all(), program)


class _Writer:
    """Reads weights and converts segments, one after the other."""

    def __init__(
        self,
        blueprint: Blueprint,
        source: TensorSource,
        folder: Path,
        precision: Precision,
        progress: Progress,
        calibration: Sequence[Sequence[int]],
    ) -> None:
        self.segments: list[str] = []
        self.head = ""
        self.index = LayerIndex(blueprint.config)
        self._blueprint = blueprint
        self._stored = blueprint.weights
        self._source = source
        self._folder = folder
        self._precision = precision
        self._calibration = calibration
        self._progress = progress
        self._task = progress.add_task("", total=blueprint.config.num_layers + 3)

    def convert(self) -> None:
        """Writes the embedding, the head and all segments."""
        self._progress.update(self._task, description="converting the head")
        smoother = self._write_tables()
        if smoother is not None:
            self.index = LayerIndex(smoother.config)
        final_norm = self._convert_head(smoother)
        self._convert_layers(smoother, final_norm)

    def load_all(self) -> DecoderWeights[tf.Variable]:
        """The SavedModel's weights."""
        self._report("loading the weights")
        bfloat16 = self._precision is Precision.BFLOAT16

        def load(name: str, parts: Parts) -> tf.Variable:
            array = self._blueprint.load(parts, self._source)
            stored = array.astype(ml_dtypes.bfloat16) if bfloat16 else array
            return tf.Variable(stored, trainable=False, name=name)

        return self._stored.map(load)

    def _write_tables(self) -> Smoother | None:
        """Writes the embedding and the positions; the smoother takes what it needs of them."""
        stored = {_EMBEDDING: self._stored.embedding, _POSITIONS: self._stored.positions}
        tables = {name: self._array(name, parts) for name, parts in stored.items() if parts is not None}
        smoother = None
        if self._precision is Precision.INT8:
            config, positions = self._blueprint.config, tables.get(_POSITIONS)
            smoother = Smoother(config, tables[_EMBEDDING], positions, self._calibration)
        for name, table in tables.items():
            np.save(self._folder / name, table if smoother is None else smoother.table(table))
        return smoother

    def _convert_head(self, smoother: Smoother | None) -> Affine[FloatArray]:
        """Writes the head; returns the final norm that belongs to it."""
        final_norm = self._stored.final_norm.map(self._array, "final_norm")
        head = self._stored.head.map(self._array, "head")
        if smoother is not None:
            final_norm, head = smoother.final_norm_and_head(final_norm, head)
        self.head = self._convert(cpu_program.head_segment(head.map(_variable, "head")))
        self.index.add_head(self._folder / self.head, final_norm, head)
        return final_norm

    def _convert_layers(self, smoother: Smoother | None, final_norm: Affine[FloatArray]) -> None:
        config = self._blueprint.config if smoother is None else smoother.config
        before: LayerWeights[tf.Variable] | None = None
        arrays: list[LayerWeights[FloatArray]] = []
        for index, stored in enumerate(self._stored.layers):
            self._report(f"converting layer {index + 1} of {config.num_layers}")
            layer = stored.map(self._array, f"layer_{index:03d}_")
            arrays.append(layer if smoother is None else smoother.layer(layer))
            current = arrays[-1].map(_variable)
            if before is None:
                self.segments.append(self._convert(cpu_program.first_segment(config, current)))
            else:
                segment = cpu_program.middle_segment(config, index, before, current)
                self.segments.append(self._convert(segment))
                self._index_layer(index - 1, arrays.pop(0))
            before = current
        self._report("converting the final norm")
        if before is not None:
            segment = cpu_program.last_segment(config, before, final_norm.map(_variable, "final_norm"))
            self.segments.append(self._convert(segment))
            self._index_layer(config.num_layers - 1, arrays.pop())

    def _index_layer(self, index: int, layer: LayerWeights[FloatArray]) -> None:
        """A layer's matrices are in two files: qkv before attention, the rest after it."""
        files = [self._folder / name for name in self.segments[index : index + 2]]
        self.index.add_layer(index, files, layer)

    def _report(self, what: str) -> None:
        self._progress.update(self._task, description=what, advance=1)

    def _array(self, _name: str, parts: Parts) -> FloatArray:
        """One weight as the CPU program computes with it."""
        array = self._blueprint.load(parts, self._source)
        if self._precision is Precision.BFLOAT16:
            return array.astype(ml_dtypes.bfloat16).astype(np.float32)
        return array

    def _convert(self, segment: cpu_program.Segment) -> str:
        file = f"{segment.name}.tflite"
        (self._folder / file).write_bytes(segment.convert(int8=self._precision is Precision.INT8))
        gc.collect()  # a traced function is a cycle that holds its weights
        return file


def _variable(name: str, array: FloatArray) -> tf.Variable:
    return tf.Variable(array, trainable=False, name=name)
