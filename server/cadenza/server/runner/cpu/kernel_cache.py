"""Where Numba keeps compiled kernels between starts."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numba

_SHARED = ("intrinsics", "mathematics", "memory", "attention", "penalties", "sampling", "logprobs", "head")


def keep_kernels(cache_dir: Path, sources: Iterable[Path]) -> None:
    """What Numba compiles from now on is kept below `cache_dir`, and found there again.

    Numba's cache sees changes of a function's own file only, so the folder is named after the kernels that
    runners share and after `sources`, a runner's own.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256((here.parent / "base.py").read_bytes())
    for path in (*(here / f"{name}.py" for name in _SHARED), *sources):
        digest.update(path.read_bytes())
    numba.config.CACHE_DIR = str(cache_dir / "numba" / digest.hexdigest()[:16])
