"""The command `cadenza-export`: exports a model to what Cadenza serves; verifies and inspects artifacts."""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from cadenza.export.errors import ExportError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 1 after one line on stderr saying what was refused.

    Wrong usage exits with 2.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = given.pop(0) if given and given[0] in ("verify", "inspect") else "export"
    parse, run = _SUBCOMMANDS[command]
    options = parse().parse_args(given)
    with _terminated_by_exit(), _own_stderr() as stderr:
        try:
            return run(options, stderr)
        except ExportError as error:
            print(f"cadenza-export: {' '.join(str(error).split())}", file=stderr)
            return 1
        except KeyboardInterrupt:
            return 130


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cadenza-export",
        description="Export a GPT-style decoder as an artifact that Cadenza serves.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="other commands (--help tells their options):\n"
        "  cadenza-export verify PATH   prove an artifact on this machine\n"
        "  cadenza-export inspect PATH  say what an artifact or a source holds",
    )
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="a GGUF file or a Hugging Face model folder"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="MODELS/NAME/VERSION",
        help="folder to write, e.g. models/smollm/1",
    )
    parser.add_argument(
        "--precision",
        choices=["int8", "float32", "bfloat16"],
        default="int8",
        help="number format of the CPU program (int8)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder where it exists")
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cadenza-export verify", description="Prove an artifact on this machine by what it carries."
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="an artifact's version folder")
    return parser


def _inspect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cadenza-export inspect", description="Say what a model is and what it takes to serve it."
    )
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="an artifact, a Hugging Face folder or a GGUF file"
    )
    parser.add_argument(
        "--sequences", type=_positive, nargs="+", default=(), help="sequences to serve at once (1 8 32)"
    )
    parser.add_argument(
        "--length", type=_positive, nargs="+", default=(), help="tokens of each (the whole context)"
    )
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 999999999")
    return int(text)


def _verify(options: argparse.Namespace, _stderr: TextIO) -> int:
    from rich.console import Console

    from cadenza.export.verify import verify

    return 0 if verify(options.path, Console()) else 1


def _inspect(options: argparse.Namespace, _stderr: TextIO) -> int:
    from rich.console import Console

    from cadenza.export.inspect import inspect

    inspect(options.path, Console(), options.sequences, options.length)
    return 0


def _export(options: argparse.Namespace, stderr: TextIO) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from cadenza.export import memory
    from cadenza.export.artifact import size
    from cadenza.export.exporter import export
    from cadenza.export.model import Precision

    started = time.perf_counter()
    memory.return_large_arrays()
    output = Path(options.output).absolute()
    with Progress(console=Console(file=stderr), disable=not stderr.isatty(), transient=True) as progress:
        notes = export(
            options.source,
            output,
            Precision(options.precision),
            overwrite=options.overwrite,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    print(
        f"wrote {options.output}: {options.precision}, {size(output) / 1e6:.0f} MB, {seconds:.1f} s",
        file=stderr,
    )
    for note in notes:
        print(f"note: {note}", file=stderr)
    return 0


_SUBCOMMANDS = {
    "export": (_export_parser, _export),
    "verify": (_verify_parser, _verify),
    "inspect": (_inspect_parser, _inspect),
}


@contextlib.contextmanager
def _own_stderr() -> Iterator[TextIO]:
    """Keeps stderr for the caller; what native libraries print is held back, and shown on a crash."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it would keep some 300 MB more
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", buffering=1) as ours, tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield ours
        except Exception:
            held.seek(0)
            ours.write(held.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(ours.fileno(), 2)


@contextlib.contextmanager
def _terminated_by_exit() -> Iterator[None]:
    """Lets SIGTERM end the block as an exception does, so that it cleans up behind itself."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
