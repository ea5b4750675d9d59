"""`cadenza-export inspect`: what an artifact or a source holds, and what it takes to serve it.

No weights are read or allocated: an artifact is described by its manifest and its SavedModel's graph, a
source by its settings and tensor shapes. A source's decoder is also traced, with shapes in place of weights.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cadenza.export import artifact, axes
from cadenza.export.errors import ArtifactError, ExportError, SourceError
from cadenza.export.families import blueprint as read_blueprint
from cadenza.export.model import Blueprint, DecoderConfig, Parts, Precision
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder
from cadenza.export.tokenizer import read_tokenizer
from cadenza.v1.manifest_pb2 import (
    PRECISION_BFLOAT16,
    PRECISION_FLOAT32,
    PRECISION_INT8,
    ModelManifest,
)

SEQUENCES = (1, 8, 32)
"""Sequences that memory is told for, where the caller does not say."""
_SAVED_MODEL = "saved_model.pb"
_UP = "layer_000_up"
_PRECISIONS = {
    PRECISION_FLOAT32: Precision.FLOAT32,
    PRECISION_INT8: Precision.INT8,
    PRECISION_BFLOAT16: Precision.BFLOAT16,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A decoder's sizes."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int | None
    vocabulary: int
    context: int

    def kv_bytes_per_token(self, precision: Precision) -> int:
        """2 (keys and values) x layers x kv_heads x head_dim x bytes of a number.

        A server keeps 2 bytes (bfloat16) beside an int8 program and 4 (float32) beside every other.
        """
        number = 2 if precision is Precision.INT8 else 4
        return 2 * self.layers * self.kv_heads * self.head_dim * number

    def serving_bytes(self, weights: int, precision: Precision, sequences: int, length: int) -> int:
        """weights + sequences x length x KV bytes per token, in bytes."""
        return weights + sequences * length * self.kv_bytes_per_token(precision)


@dataclasses.dataclass(frozen=True)
class Description:
    """What is printed of a model before its memory."""

    title: str
    rows: Mapping[str, str]
    sizes: Sizes
    weights: Mapping[Precision, int]
    """Bytes of the CPU program's weights, by the precisions that it has or could have."""
    files: Sequence[Path] = ()
    signatures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """tensorflow.SignatureDef by name."""


def inspect(path: Path, console: Console, sequences: Sequence[int] = (), lengths: Sequence[int] = ()) -> None:
    """Prints what is at `path`: an artifact's version folder, a Hugging Face folder or a GGUF file.

    Args:
        path: what to look at.
        console: where to print.
        sequences: how many sequences to tell the memory for; without any, `SEQUENCES`.
        lengths: of how many tokens; without any, the whole context.

    Raises:
        ExportError: it is none of the three, is damaged, or a length is beyond the context.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist; give an artifact, a Hugging Face folder or a GGUF file")
    is_artifact = (path / _SAVED_MODEL).exists() or (path / artifact.EXTRA).exists()
    found = _artifact(path) if is_artifact else _source(path)
    lengths = lengths or (found.sizes.context,)
    if max(lengths) > found.sizes.context:
        raise ExportError(f"--length {max(lengths)} is beyond the context of {found.sizes.context} tokens")
    console.print(_facts(found))
    if found.signatures:
        console.print(_signatures(found.signatures))
    if found.files:
        console.print(_files(path, found.files))
    console.print(_memory(found, sequences or SEQUENCES, lengths))


def program_bytes(blueprint: Blueprint, precision: Precision) -> int:
    """Bytes of a CPU program's weights, which is what a server holds of them.

    Every number takes 4 bytes (float32, also of weights rounded to bfloat16); with int8 the matrices of the
    layers and the head take 1. The embedding is a table beside the head, tied or not, and stays float32.
    """
    weights = blueprint.weights
    matrix = 1 if precision is Precision.INT8 else 4
    tables = [weights.embedding] if weights.positions is None else [weights.embedding, weights.positions]
    leaves = [leaf for layer in weights.layers for leaf in layer.leaves()]
    leaves += [*weights.final_norm.leaves(), *weights.head.leaves()]
    inner = sum(_elements(leaf) * (matrix if len(leaf[0].shape) > 1 else 4) for leaf in leaves)
    return inner + 4 * sum(map(_elements, tables))


def trace(blueprint: Blueprint) -> str:
    """Traces the decoder with shapes in place of weights; returns the logits' type and shape.

    Raises:
        ExportError: the sizes do not fit together.
    """
    import tensorflow as tf

    from cadenza.export import decoder

    specs: list[tf.TensorSpec] = []

    def placeholder(name: str, parts: Parts) -> None:
        specs.append(tf.TensorSpec(_canonical_shape(blueprint.config, name, parts), tf.float32, name))

    def logits(token_ids: tf.Tensor, *leaves: tf.Tensor) -> tf.Tensor:
        remaining = iter(leaves)
        weights = blueprint.weights.map(lambda *_: next(remaining))
        return decoder.logits(blueprint.config, weights, token_ids)

    blueprint.weights.map(placeholder)
    token_ids = tf.TensorSpec([None, None], tf.int32, "token_ids")
    try:
        traced = tf.function(logits, autograph=False).get_concrete_function(token_ids, *specs)
    except (ValueError, tf.errors.OpError) as error:
        raise ExportError(f"the decoder's sizes do not fit together: {error}") from error
    (output,) = traced.outputs
    return _typed(output.dtype.name, output.shape.as_list())


def _artifact(path: Path) -> Description:
    manifest = artifact.read_manifest(path)
    graph = _read_graph(path)
    shape, cpu = manifest.decoder, manifest.cpu
    precision = _precision(manifest)
    sizes = Sizes(
        layers=shape.num_layers,
        hidden=shape.hidden_size,
        heads=shape.num_heads,
        kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        intermediate=_intermediate_size(graph),
        vocabulary=shape.vocabulary_size,
        context=shape.max_context,
    )
    names = [*cpu.segments, cpu.head, cpu.embedding, cpu.position_embedding, cpu.layers.vectors]
    program = [path / artifact.EXTRA / "cpu" / name for name in names if name]
    rows = {"source": manifest.source, "written by": manifest.producer, **_described(manifest.family, sizes)}
    rows |= {"parameters": f"{manifest.parameter_count:,}", "precision": precision.value}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    weights = {precision: sum(map(_size, program))}
    return Description(str(path), rows, sizes, weights, files, graph.signature_def)


def _source(path: Path) -> Description:
    source = _open(path)
    blueprint = read_blueprint(source)
    has_weights = bool(source.files)
    if has_weights:
        blueprint.check(source)
    config = blueprint.config
    sizes = Sizes(
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate_size,
        vocabulary=config.vocabulary_size,
        context=config.max_context,
    )
    rows = _described(blueprint.family, sizes) | {"parameters": f"{blueprint.parameter_count():,}"}
    rows["logits"] = f"{trace(blueprint)}: shapes fit together"
    rows["can be exported"] = _exportable(source, blueprint) if has_weights else "no: it has no weights"
    if blueprint.notes:
        rows["notes"] = "; ".join(blueprint.notes)
    weights = {precision: program_bytes(blueprint, precision) for precision in Precision}
    return Description(str(path), rows, sizes, weights, source.files)


def _open(path: Path) -> GgufFile | HuggingFaceFolder:
    if not path.is_dir():
        return GgufFile(path)
    return HuggingFaceFolder(path, weights=HuggingFaceFolder(path, weights=False).has_weights)


def _exportable(source: GgufFile | HuggingFaceFolder, blueprint: Blueprint) -> str:
    """Whether an export would get as far as the weights' values."""
    try:
        blueprint.check_program_sizes()
        read_tokenizer(source, blueprint.config.vocabulary_size)
    except ExportError as error:
        return f"no: {error}"
    return "yes"


def _precision(manifest: ModelManifest) -> Precision:
    value = manifest.cpu.precision
    if value not in _PRECISIONS:
        raise ArtifactError(f"manifest.json: cpu.precision is {value}; an export writes one of {_PRECISIONS}")
    return _PRECISIONS[value]


def _intermediate_size(graph: Any) -> int | None:
    """Rows of the first layer's `up` in the SavedModel; None where it has no such variable."""
    nodes = graph.object_graph_def.nodes
    shapes = [node.variable.shape for node in nodes if node.variable.name == _UP]
    return shapes[0].dim[0].size if len(shapes) == 1 and shapes[0].dim else None


def _read_graph(path: Path) -> Any:
    """The SavedModel's one graph: tensorflow.MetaGraphDef, which has no types."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / _SAVED_MODEL
    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read ({error.strerror}); export or copy it again") from error
    except DecodeError as error:
        raise ArtifactError(f"{file} is no SavedModel: {error}") from error
    if len(saved.meta_graphs) != 1:
        raise ArtifactError(f"{file} holds {len(saved.meta_graphs)} graphs; an export writes one")
    return saved.meta_graphs[0]


def _described(family: str, sizes: Sizes) -> dict[str, str]:
    return {
        "family": family,
        "layers": str(sizes.layers),
        "hidden size": str(sizes.hidden),
        "heads": f"{sizes.heads}, {sizes.kv_heads} for keys and values, of size {sizes.head_dim}",
        "MLP size": "unknown" if sizes.intermediate is None else str(sizes.intermediate),
        "vocabulary": str(sizes.vocabulary),
        "context": f"{sizes.context} tokens",
    }


def _facts(found: Description) -> Table:
    table = Table("", "value", title=found.title, show_header=False)
    for name, value in found.rows.items():
        table.add_row(name, value)
    for precision, weights in found.weights.items():
        kept = f"{_bytes(weights)}; KV cache {_bytes(found.sizes.kv_bytes_per_token(precision))} per token"
        table.add_row(f"weights served as {precision.value}", kept)
    return table


def _signatures(signatures: Mapping[str, Any]) -> Table:
    table = Table("signature", "inputs", "outputs", title="signatures", show_lines=True)
    for name in sorted(signatures):
        if not name.startswith("__"):  # TensorFlow's own, of the saved state
            table.add_row(name, _tensors(signatures[name].inputs), _tensors(signatures[name].outputs))
    return table


def _tensors(tensors: Mapping[str, Any]) -> str:
    from tensorflow import dtypes

    lines = []
    for name in sorted(tensors):
        info = tensors[name]
        shape = [dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim]
        lines.append(f"{name}: {_typed(dtypes.as_dtype(info.dtype).name, shape)}")
    return "\n".join(lines)


def _files(path: Path, files: Sequence[Path]) -> Table:
    table = Table("file", title="files")
    table.add_column("bytes", justify="right")
    for file in files:
        table.add_row(str(file.relative_to(path)) if path.is_dir() else file.name, f"{_size(file):,}")
    table.add_row("in all", f"{sum(map(_size, files)):,}")
    return table


def _memory(found: Description, sequences: Sequence[int], lengths: Sequence[int]) -> Table:
    table = Table("sequences", "tokens each", title="memory to serve: weights and KV cache")
    for precision in found.weights:
        table.add_column(precision.value, justify="right")
    for count in sequences:
        for length in lengths:
            needed = (
                found.sizes.serving_bytes(weights, precision, count, length)
                for precision, weights in found.weights.items()
            )
            table.add_row(str(count), str(length), *map(_bytes, needed))
    return table


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read ({error.strerror}); export or copy it again") from error


def _elements(parts: Parts) -> int:
    return sum(math.prod(part.shape) for part in parts)


def _canonical_shape(config: DecoderConfig, name: str, parts: Parts) -> tuple[int, ...]:
    """A weight's shape after its transforms; as many elements as its parts have."""
    shape = axes.shape(config, re.sub(r"^layer_\d+_", "", name))
    if math.prod(shape) != _elements(parts):
        stored = " and ".join(f"{part.name} {list(part.shape)}" for part in parts)
        raise ExportError(f"{name} must have shape {list(shape)}, but is made of {stored}")
    return shape


def _typed(dtype: str, shape: Sequence[int | None]) -> str:
    return f"{dtype} [{', '.join('?' if size is None else str(size) for size in shape)}]"


def _bytes(size: int) -> str:
    """A size in decimal units, as files have them."""
    value, units = float(size), _units()
    unit = next(units)
    for larger in units:
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def _units() -> Iterator[str]:
    yield from ("B", "kB", "MB", "GB", "TB")
