"""One export from end to end: open, check, load, write the SavedModel and the CPU program, move into place.

Everything that can be refused without weights is refused before TensorFlow is imported.
"""

import dataclasses
import enum
from pathlib import Path

import numpy as np
from rich.progress import Progress

from cadenza.export import artifact
from cadenza.export.errors import SourceError
from cadenza.export.families import blueprint as read_blueprint
from cadenza.export.manifest import manifest_json
from cadenza.export.model import Blueprint
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder
from cadenza.export.tokenizer import TokenizerFiles, read_tokenizer
from cadenza.v1 import manifest_pb2


class Precision(enum.Enum):
    """The number format of the CPU program's matrices."""

    INT8 = "int8"
    FLOAT32 = "float32"


@dataclasses.dataclass(frozen=True)
class Export:
    """A source that can be exported: opened, recognised and checked; no weights are loaded yet."""

    source: GgufFile | HuggingFaceFolder
    blueprint: Blueprint
    tokenizer: TokenizerFiles


def open_source(path: Path) -> Export:
    """Opens a GGUF file or a Hugging Face folder and checks everything but the weights' values.

    Raises:
        ExportError: the source cannot be read, or cannot be exported exactly.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a GGUF file or a Hugging Face model folder")
    source = HuggingFaceFolder(path) if path.is_dir() else GgufFile(path)
    blueprint = read_blueprint(source)
    return Export(source, blueprint, read_tokenizer(source, blueprint.config.vocabulary_size))


def export(
    path: Path,
    output: Path,
    precision: Precision,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes the artifact of the model at `path` to `output`, whole or not at all.

    Raises:
        ExportError: the source cannot be exported exactly, or the output cannot be written.
    """
    progress = progress or Progress(disable=True)
    artifact.check_output(output, overwrite=overwrite)
    opened = open_source(path)
    with artifact.new_artifact(output, overwrite=overwrite) as folder:
        cpu = _write_model(opened, folder, precision, progress)
        extra = folder / artifact.EXTRA
        (extra / "tokenizer.json").write_text(opened.tokenizer.tokenizer_json, encoding="utf-8")
        if opened.tokenizer.chat_template is not None:
            (extra / "chat_template.jinja").write_text(opened.tokenizer.chat_template, encoding="utf-8")
        sums = [artifact.sha256(file) for file in opened.source.files]
        manifest = manifest_json(opened.blueprint, opened.tokenizer, cpu, opened.source.name, sums)
        (extra / "manifest.json").write_text(manifest, encoding="utf-8")
        artifact.write_checksums(folder)


def _write_model(
    opened: Export, folder: Path, precision: Precision, progress: Progress
) -> manifest_pb2.CpuProgram:
    import tensorflow as tf

    from cadenza.export import cpu_program, saved_model

    plan, config = opened.blueprint, opened.blueprint.config
    parts = dict(plan.weights.leaves())
    loaded = {
        name: tf.Variable(plan.load(name, parts[name], opened.source), trainable=False, name=name)
        for name in progress.track(parts, description="reading weights")
    }
    weights = plan.weights.map(lambda name, _: loaded[name])
    for _ in progress.track(range(1), description="writing SavedModel"):
        saved_model.write_saved_model(config, weights, folder)
    cpu = folder / artifact.EXTRA / "cpu"
    cpu.mkdir(parents=True)
    np.save(cpu / "embedding.npy", weights.embedding.numpy())
    names = []
    segments = list(cpu_program.segments(config, weights))
    for segment in progress.track(segments, description="writing CPU program"):
        names.append(f"{segment.name}.tflite")
        (cpu / names[-1]).write_bytes(segment.convert(int8=precision is Precision.INT8))
    return manifest_pb2.CpuProgram(
        precision=manifest_pb2.Precision.Value(f"PRECISION_{precision.name}"),
        segments=names[:-1],
        head=names[-1],
        embedding="embedding.npy",
    )
