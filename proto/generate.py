"""Generates the Python modules and type stubs beside the .proto files.

`generate.py` rewrites them in place; `generate.py --check` only compares, and exits 1 where they differ.
"""

import argparse
import filecmp
import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"
SOURCES = "cadenza/*/*.proto"
GENERATED = "cadenza/*/*_pb2*"
HAS_SERVICE = {"completion.proto", "inference.proto"}


def generate(out: Path) -> list[Path]:
    """Writes every generated file below `out` and returns their paths relative to it."""
    # protoc looks for the mypy plugins on PATH; they lie beside the interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for source in sorted(ROOT.glob(SOURCES)):
        (out / source.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        outputs = [f"--python_out={out}", f"--mypy_out=quiet:{out}"]
        if source.name in HAS_SERVICE:
            outputs += [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
        arguments = [f"-I{ROOT}", f"-I{WELL_KNOWN}", *outputs, str(source)]
        if protoc.main(["protoc", *arguments]) != 0:
            raise SystemExit(f"protoc failed on {source}")
    return sorted(path.relative_to(out) for path in out.glob(GENERATED))


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 where files differ")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        committed = sorted(path.relative_to(ROOT) for path in ROOT.glob(GENERATED))
        stale = sorted(set(committed) ^ set(fresh))
        stale += [
            p for p in set(fresh) & set(committed) if not filecmp.cmp(Path(scratch) / p, ROOT / p, False)
        ]
    for path in stale:
        print(f"proto/{path} is not what the .proto files generate: run `make proto`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
