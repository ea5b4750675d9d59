"""Everything of an artifact that holds weights: the CPU program, the embedding table, the SavedModel.

Weights are loaded once, when they are first needed, the largest conversion (the head) first: so the peak of
memory stays near one float32 copy of the model and what one conversion takes.
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
    """Loads all weights and writes the CPU program to `folder`.

    An int8 program is made of smoothed weights (see smoothing.py); `calibration` holds the token ids of the
    texts whose activations are looked at, each not empty.

    Raises:
        TensorError: a tensor cannot be read or holds numbers that are not finite.
    """
    writer = _Writer(blueprint, source, folder, precision, progress, calibration)
    weights = writer.convert()
    program = manifest_pb2.CpuProgram(
        precision=manifest_pb2.Precision.Value(f"PRECISION_{precision.name}"),
        segments=writer.segments,
        head=writer.head,
        embedding=_EMBEDDING,
        position_embedding="" if weights.positions is None else _POSITIONS,
    )
    return Written(weights, program)


class _Writer:
    """Loads weights and converts segments, one after the other."""

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
        self._blueprint = blueprint
        self._source = source
        self._folder = folder
        self._precision = precision
        self._calibration = calibration
        self._progress = progress
        self._task = progress.add_task("", total=blueprint.config.num_layers + 2)

    def convert(self) -> DecoderWeights[tf.Variable]:
        """Writes the head, the embedding and all segments; returns the weights, all loaded by then."""
        self._progress.update(self._task, description="converting the head")
        stored = self._blueprint.weights
        outer = dataclasses.replace(stored, layers=()).map(self._load)
        smoother = self._smoother(outer)
        self._write_tables(smoother, outer)
        final_norm, head = outer.final_norm, outer.head
        if smoother is not None:
            final_norm, head = smoother.final_norm_and_head(_arrays(final_norm), _arrays(head))
        self.head = self._convert(cpu_program.head_segment(head.map(_as_float32, "head")))
        del head
        layers = self._convert_layers(smoother, final_norm.map(_as_float32, "final_norm"))
        return dataclasses.replace(outer, layers=layers)

    def _convert_layers(
        self, smoother: Smoother | None, final_norm: Affine[tf.Variable]
    ) -> tuple[LayerWeights[tf.Variable], ...]:
        config = self._blueprint.config if smoother is None else smoother.config
        layers: list[LayerWeights[tf.Variable]] = []
        before: LayerWeights[tf.Variable] | None = None
        for index, stored in enumerate(self._blueprint.weights.layers):
            self._report(f"converting layer {index + 1} of {config.num_layers}")
            layers.append(stored.map(self._load, f"layer_{index:03d}_"))
            layer = layers[-1] if smoother is None else smoother.layer(layers[-1].map(_array))
            current = layer.map(_as_float32)
            if before is None:
                self.segments.append(self._convert(cpu_program.first_segment(config, current)))
            else:
                segment = cpu_program.middle_segment(config, index, before, current)
                self.segments.append(self._convert(segment))
            before = current
        self._report("converting the final norm")
        if before is not None:
            self.segments.append(self._convert(cpu_program.last_segment(config, before, final_norm)))
        return tuple(layers)

    def _smoother(self, outer: DecoderWeights[tf.Variable]) -> Smoother | None:
        if self._precision is not Precision.INT8:
            return None
        tables = (_array("", outer.embedding), _optional_array(outer.positions))
        return Smoother(self._blueprint.config, *tables, self._calibration)

    def _write_tables(self, smoother: Smoother | None, outer: DecoderWeights[tf.Variable]) -> None:
        for name, variable in ((_EMBEDDING, outer.embedding), (_POSITIONS, outer.positions)):
            if variable is not None:
                table = _array(name, variable)
                np.save(self._folder / name, table if smoother is None else smoother.table(table))

    def _report(self, what: str) -> None:
        self._progress.update(self._task, description=what, advance=1)

    def _load(self, name: str, parts: Parts) -> tf.Variable:
        array = self._blueprint.load(parts, self._source)
        if self._precision is Precision.BFLOAT16:
            return tf.Variable(array.astype(ml_dtypes.bfloat16), trainable=False, name=name)
        return tf.Variable(array, trainable=False, name=name)

    def _convert(self, segment: cpu_program.Segment) -> str:
        file = f"{segment.name}.tflite"
        (self._folder / file).write_bytes(segment.convert(int8=self._precision is Precision.INT8))
        gc.collect()  # a converted function is a cycle that holds its weights
        return file


def _arrays(part: Affine[tf.Variable]) -> Affine[FloatArray]:
    return part.map(_array, "")


def _array(_name: str, variable: tf.Variable) -> FloatArray:
    array: FloatArray = variable.numpy().astype(np.float32, copy=False)
    return array


def _optional_array(variable: tf.Variable | None) -> FloatArray | None:
    return None if variable is None else _array("", variable)


def _as_float32(_name: str, weight: tf.Variable | FloatArray) -> tf.Variable:
    """The weight as a float32 variable, itself where it is one."""
    if isinstance(weight, tf.Variable) and weight.dtype == tf.float32:
        return weight
    return tf.Variable(tf.cast(weight, tf.float32), trainable=False)
