"""The CPU runner: LiteRT for the linear layers, Numba for attention and sampling."""

from cadenza.server.runner.litert.capi import LiteRTError
from cadenza.server.runner.litert.runner import LiteRTRunner

__all__ = ["LiteRTError", "LiteRTRunner"]
