"""One export from end to end: open, check, load, write the SavedModel and the CPU program, move into place.

Everything that can be refused without weights is refused before TensorFlow is imported.
"""

import dataclasses
from pathlib import Path

from rich.progress import Progress

from cadenza.export import artifact
from cadenza.export.calibration import calibration_tokens
from cadenza.export.errors import SourceError
from cadenza.export.families import blueprint as read_blueprint
from cadenza.export.manifest import manifest_json
from cadenza.export.model import Blueprint, Precision
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder
from cadenza.export.tokenizer import TokenizerFiles, read_tokenizer


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
) -> None:
    """Writes the artifact of the model at `path` to `output`, whole or not at all.

    Raises:
        ExportError: the source cannot be exported exactly, or the output cannot be written.
    """
    progress = progress or Progress(disable=True)
    artifact.check_output(output, overwrite=overwrite)
    opened = open_source(path)
    with artifact.new_artifact(output, overwrite=overwrite) as folder:
        from cadenza.export.saved_model import write_saved_model
        from cadenza.export.weights import write_cpu_program

        extra = folder / artifact.EXTRA
        (extra / "cpu").mkdir(parents=True)
        tokens = calibration_tokens(opened.tokenizer.tokenizer_json, opened.blueprint.config.max_context)
        written = write_cpu_program(
            opened.blueprint, opened.source, extra / "cpu", precision, progress, tokens
        )
        write_saved_model(opened.blueprint.config, written.weights, folder)
        (extra / "tokenizer.json").write_text(opened.tokenizer.tokenizer_json, encoding="utf-8")
        if opened.tokenizer.chat_template is not None:
            (extra / "chat_template.jinja").write_text(opened.tokenizer.chat_template, encoding="utf-8")
        sums = [artifact.sha256(file) for file in opened.source.files]
        manifest = manifest_json(opened.blueprint, opened.tokenizer, written.cpu, opened.source.name, sums)
        (extra / "manifest.json").write_text(manifest, encoding="utf-8")
        artifact.write_checksums(folder)
