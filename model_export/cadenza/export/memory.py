"""Keeps the memory of an export near what it holds: glibc keeps much of what is freed, unless told not to.

Other C libraries are left as they are.
"""

import ctypes
import gc

_M_MMAP_THRESHOLD = -3
_OWN_MAPPING_BYTES = 1 << 20


def return_large_arrays() -> None:
    """From now on every large array goes back to the system as soon as it is freed.

    By default blocks of up to 32 MiB are kept, as the threshold rises with what is freed (mallopt(3)).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


def release() -> None:
    """Gives back what nothing refers to any more, small objects too; traced functions are cycles."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
