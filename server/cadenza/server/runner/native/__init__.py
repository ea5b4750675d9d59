"""The native CPU runner: matrix products, attention and sampling in kernels of our own."""

from cadenza.server.runner.native.runner import NativeRunner, obstacle

__all__ = ["NativeRunner", "obstacle"]
