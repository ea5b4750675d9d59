"""Everything of an artifact that holds weights: the CPU program, the embedding table, the SavedModel.

Weights are loaded once, when they are first needed, the largest conversion (the head) first: so the peak of
memory stays near one float32 copy of the model and what one conversion takes.
"""

import functools
import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.progress import Progress

from cadenza.export import cpu_program
from cadenza.export.model import (
    Blueprint,
    DecoderWeights,
    FloatArray,
    LayerWeights,
    Parts,
    Precision,
    TensorSource,
)
from cadenza.export.saved_model import write_saved_model
from cadenza.export.smoothing import Smoother
from cadenza.v1 import manifest_pb2

_EMBEDDING = "embedding.npy"


def write_weights(
    blueprint: Blueprint,
    source: TensorSource,
    folder: Path,
    cpu_folder: Path,
    precision: Precision,
    progress: Progress,
    calibration: Sequence[Sequence[int]] = (),
) -> manifest_pb2.CpuProgram:
    """Writes the SavedModel to `folder`, the CPU program to `cpu_folder`; returns the program's description.

    An int8 program is made of smoothed weights (see smoothing.py); `calibration` holds the token ids of the
    texts whose activations are looked at, each not empty.

    Raises:
        TensorError: a tensor cannot be read or holds numbers that are not finite.
    """
    writer = _Writer(blueprint, source, cpu_folder, precision, progress, calibration)
    weights = writer.convert()
    writer.report("writing SavedModel")
    write_saved_model(blueprint.config, weights, folder)
    return manifest_pb2.CpuProgram(
        precision=manifest_pb2.Precision.Value(f"PRECISION_{precision.name}"),
        segments=writer.segments,
        head=writer.head,
        embedding=_EMBEDDING,
    )


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
        self._int8 = precision is Precision.INT8
        self._calibration = calibration
        self._progress = progress
        self._task = progress.add_task("", total=blueprint.config.num_layers + 3)

    def report(self, what: str) -> None:
        """Shows what is done next, after one step was finished."""
        self._progress.update(self._task, description=what, advance=1)

    def convert(self) -> DecoderWeights[tf.Variable]:
        """Writes the head, the embedding and all segments; returns the weights, all loaded by then."""
        config, stored = self._blueprint.config, self._blueprint.weights
        self._progress.update(self._task, description="converting the head")
        embedding = self._load("", "embedding", stored.embedding)
        final_norm = self._load("", "final_norm", stored.final_norm)
        head = embedding if stored.tied else self._load("", "head", stored.head)
        smoother = Smoother(config, embedding.numpy(), self._calibration) if self._int8 else None
        self._write_table_and_head(smoother, embedding, final_norm, head)
        layers: list[LayerWeights[tf.Variable]] = []
        before: LayerWeights[tf.Variable] | None = None
        for index, layer in enumerate(stored.layers):
            self.report(f"converting layer {index + 1} of {config.num_layers}")
            layers.append(layer.map(functools.partial(self._load, f"layer_{index:03d}_")))
            current = layers[-1] if smoother is None else _smoothed(smoother, layers[-1])
            segment = (
                cpu_program.first_segment(config, current)
                if before is None
                else cpu_program.middle_segment(config, index, before, current)
            )
            self.segments.append(self._convert(segment))
            before = current
        self.report("converting the final norm")
        gain = final_norm if smoother is None else _constant(smoother.no_gain())
        self.segments.append(self._convert(cpu_program.last_segment(config, before or layers[-1], gain)))
        return DecoderWeights(embedding, tuple(layers), final_norm, head)

    def _write_table_and_head(
        self, smoother: Smoother | None, embedding: tf.Variable, final_norm: tf.Variable, head: tf.Variable
    ) -> None:
        table = embedding.numpy() if smoother is None else smoother.embedding(embedding.numpy())
        np.save(self._folder / _EMBEDDING, table)
        del table
        used = head if smoother is None else _constant(smoother.head(final_norm.numpy(), head.numpy()))
        self.head = self._convert(cpu_program.head_segment(used))

    def _load(self, prefix: str, name: str, parts: Parts) -> tf.Variable:
        return tf.Variable(self._blueprint.load(parts, self._source), trainable=False, name=prefix + name)

    def _convert(self, segment: cpu_program.Segment) -> str:
        file = f"{segment.name}.tflite"
        (self._folder / file).write_bytes(segment.convert(int8=self._int8))
        gc.collect()  # a converted function is a cycle that holds its weights
        return file


def _smoothed(smoother: Smoother, layer: LayerWeights[tf.Variable]) -> LayerWeights[tf.Variable]:
    smoothed = smoother.layer(layer.map(lambda _, variable: variable.numpy()))
    return smoothed.map(lambda _, array: _constant(array))


def _constant(array: FloatArray) -> tf.Variable:
    return tf.Variable(array, trainable=False)
