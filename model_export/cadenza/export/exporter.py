"""One export from end to end: open, check, load, write the SavedModel and the CPU program, move into place.

Everything that can be refused without weights is refused before TensorFlow is imported.
"""

import dataclasses
from pathlib import Path

from rich.progress import Progress

from cadenza.export import artifact, memory
from cadenza.export.calibration import calibration_tokens
from cadenza.export.errors import SourceError
from cadenza.export.families import blueprint as read_blueprint
from cadenza.export.manifest import as_json, manifest
from cadenza.export.model import Blueprint, Precision
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder
from cadenza.export.tokenizer import TokenizerFiles, read_tokenizer
from cadenza.v1.golden_pb2 import GoldenVectors
from cadenza.v1.manifest_pb2 import ModelManifest


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
    blueprint.check(source)
    blueprint.check_program_sizes()
    return Export(source, blueprint, read_tokenizer(source, blueprint.config.vocabulary_size))


def export(
    path: Path,
    output: Path,
    precision: Precision,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Writes the artifact of the model at `path` to `output`, whole or not at all.

    Returns what its user should know, such as a context that was limited to stay exact.

    Raises:
        ExportError: the source cannot be exported exactly, or the output cannot be written.
    """
    progress = progress or Progress(disable=True)
    artifact.check_output(output, overwrite=overwrite)
    opened = open_source(path)
    with artifact.new_artifact(output, overwrite=overwrite) as folder:
        _write(opened, folder, precision, progress, output.parent.name)
        artifact.write_checksums(folder)
    return opened.blueprint.notes


def _write(opened: Export, folder: Path, precision: Precision, progress: Progress, model: str) -> None:
    from cadenza.export.golden import add_cpu_digests
    from cadenza.export.warmup import write_warmup_requests

    files = opened.tokenizer
    extra = folder / artifact.EXTRA
    (extra / "cpu").mkdir(parents=True)
    description, golden = _write_programs(opened, folder, precision, progress)
    memory.release()
    add_cpu_digests(golden, description.decoder, extra / "cpu", description.cpu)
    write_warmup_requests(model, extra)
    texts = {
        "tokenizer.json": files.tokenizer_json,
        "chat_template.jinja": files.chat_template,
        "golden.json": as_json(golden),
        "manifest.json": as_json(description),
    }
    for name, text in texts.items():
        if text is not None:
            (extra / name).write_text(text, encoding="utf-8")


def _write_programs(
    opened: Export, folder: Path, precision: Precision, progress: Progress
) -> tuple[ModelManifest, GoldenVectors]:
    """Writes all that holds weights; they are let go of when it returns."""
    from cadenza.export.generation import Generator
    from cadenza.export.golden import golden_vectors
    from cadenza.export.saved_model import Pipeline, write_saved_model
    from cadenza.export.steps import Steps
    from cadenza.export.text.graph import GraphTokenizer
    from cadenza.export.weights import write_cpu_program

    blueprint, files, cpu = opened.blueprint, opened.tokenizer, folder / artifact.EXTRA / "cpu"
    memory.release()
    tokens = calibration_tokens(files.tokenizer_json, blueprint.config.max_context)
    written = write_cpu_program(blueprint, opened.source, cpu, precision, progress, tokens)
    sums = [artifact.sha256(file) for file in opened.source.files]
    description = manifest(blueprint, files, written.cpu, opened.source.name, sums)
    memory.release()
    golden = golden_vectors(blueprint.config, written.weights, files)
    generator = Generator(blueprint.config, written.weights, files.eos_token_ids)
    bos = files.bos_token_id if files.add_bos_token else None
    tokenizer = GraphTokenizer(files.compiled, blueprint.config.vocabulary_size, bos)
    pipeline = Pipeline(blueprint.config, generator, tokenizer, description.default_max_tokens)
    memory.release()
    write_saved_model(pipeline, Steps(blueprint.config, written.weights), folder)
    return description, golden
