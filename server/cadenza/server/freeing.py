"""Gives memory of what is no longer used back to the system."""

import ctypes
import gc


def free_unused_memory() -> None:
    """Collects garbage and returns free pages; what is left is taken to stay.

    The collector looks no more at what stays (`gc.freeze`), so that it does not pause the loop between steps.
    Takes some tenths of a second, for most of which Python's lock is held.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone keeps freed pages, and has it
    if trim is not None:
        trim(ctypes.c_size_t(0))
