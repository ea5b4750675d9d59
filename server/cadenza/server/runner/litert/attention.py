"""Attention over the block pool, for one flat batch of rows, as Numba kernels.

A KV block holds `block` tokens of one layer: keys as [kv_heads, head_dim, block], so that a query meets all
keys of a block by multiplying whole vectors, and values as [kv_heads, block, head_dim]. Each query row is
computed alone, over its positions in order, so its result does not depend on the rest of the batch.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from cadenza.server.runner.litert.mathematics import exp32
from cadenza.server.runner.litert.native import bits_of_float

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_MASKED = np.float32(-1e30)
_FAST = {"fastmath": {"reassoc", "contract", "nsz", "nnan"}, "error_model": "numpy"}

# A tile keeps _TILE x _TILE vector accumulators in registers: 16 of the 32 that AVX-512 has.
_TILE = 4


class _Vectors:
    """Emits vector loads, stores and products at byte offsets from int64 addresses."""

    def __init__(self, builder, width: int) -> None:
        self.builder = builder
        self.width = width
        self.type = ir.VectorType(_F32, width)

    def zero(self):
        return ir.Constant(self.type, [0.0] * self.width)

    def pointer(self, address, offset, kind):
        if isinstance(offset, int):
            offset = _I64(offset)
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def load(self, address, offset, bf16: bool = False):
        kind = ir.VectorType(_I16, self.width) if bf16 else self.type
        value = self.builder.load(self.pointer(address, offset, kind))
        value.align = 2 if bf16 else 4
        if not bf16:
            return value
        wide = ir.VectorType(_I32, self.width)
        shifted = self.builder.shl(self.builder.zext(value, wide), ir.Constant(wide, [16] * self.width))
        return self.builder.bitcast(shifted, self.type)

    def store(self, value, address, offset) -> None:
        self.builder.store(value, self.pointer(address, offset, self.type)).align = 4

    def splat(self, address, offset):
        """The float32 at the address in every lane."""
        scalar = self.builder.load(self.pointer(address, offset, _F32))
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _I32(0))
        return self.builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(_I32, self.width), [0] * self.width)
        )

    def accumulate(self, a, b, slot) -> None:
        """slot += a * b, where slot is a stack slot that LLVM turns into a register."""
        name = f"llvm.fma.v{self.width}f32"
        fma = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(self.type, [self.type] * 3), name
        )
        self.builder.store(self.builder.call(fma, [a, b, self.builder.load(slot)]), slot)


def _tiles(count: int) -> list[range]:
    return [range(start, min(start + _TILE, count)) for start in range(0, count, _TILE)]


def _literals(*literal_types) -> list[Any]:
    for literal in literal_types:
        if not isinstance(literal, types.Literal):
            raise TypingError(f"a compile-time constant is wanted, not {literal}")
    return [literal.literal_value for literal in literal_types]


@intrinsic(prefer_literal=True)
def _block_scores(typing_context, query, keys, scores, head_dim, block, group, bf16):
    """scores[g, t] = query[g] . keys[:, t] for the `group` query heads of one KV head and a whole block."""
    d_size, t_size, g_size, narrow = _literals(head_dim, block, group, bf16)
    width = math.gcd(16, t_size)
    row = t_size * (2 if narrow else 4)

    def codegen(context, builder, signature, args):
        vectors = _Vectors(builder, width)
        for gs in _tiles(g_size):
            for ts in _tiles(t_size // width):
                slots = {(g, t): cgutils.alloca_once_value(builder, vectors.zero()) for g in gs for t in ts}
                for slot in slots.values():
                    builder.store(vectors.zero(), slot)
                with cgutils.for_range(builder, _I64(d_size)) as loop:
                    key_row = builder.mul(loop.index, _I64(row))
                    tile = [
                        vectors.load(args[1], builder.add(key_row, _I64(t * row * width // t_size)), narrow)
                        for t in ts
                    ]
                    element = builder.mul(loop.index, _I64(4))
                    for g in gs:
                        q = vectors.splat(args[0], builder.add(element, _I64(4 * g * d_size)))
                        for t, k in zip(ts, tile, strict=True):
                            vectors.accumulate(q, k, slots[g, t])
                for (g, t), slot in slots.items():
                    vectors.store(builder.load(slot), args[2], 4 * (g * t_size + t * width))
        return context.get_dummy_value()

    addresses = [types.int64] * 3
    return types.void(*addresses, head_dim, block, group, bf16), codegen


@intrinsic(prefer_literal=True)
def _block_values(typing_context, weights, values, count, out, head_dim, block, group, bf16):
    """out[g] += sum over the block's first `count` tokens t of weights[g, t] * values[t]."""
    d_size, t_size, g_size, narrow = _literals(head_dim, block, group, bf16)
    width = math.gcd(16, d_size)
    row = d_size * (2 if narrow else 4)

    def codegen(context, builder, signature, args):
        vectors = _Vectors(builder, width)
        for gs in _tiles(g_size):
            for ds in _tiles(d_size // width):
                slots = {(g, d): cgutils.alloca_once(builder, vectors.type) for g in gs for d in ds}
                for (g, d), slot in slots.items():
                    builder.store(vectors.load(args[3], 4 * (g * d_size + d * width)), slot)
                with cgutils.for_range(builder, args[2]) as loop:
                    value_row = builder.mul(loop.index, _I64(row))
                    tile = [
                        vectors.load(args[1], builder.add(value_row, _I64(d * row * width // d_size)), narrow)
                        for d in ds
                    ]
                    element = builder.mul(loop.index, _I64(4))
                    for g in gs:
                        weight = vectors.splat(args[0], builder.add(element, _I64(4 * g * t_size)))
                        for d, v in zip(ds, tile, strict=True):
                            vectors.accumulate(weight, v, slots[g, d])
                for (g, d), slot in slots.items():
                    vectors.store(builder.load(slot), args[3], 4 * (g * d_size + d * width))
        return context.get_dummy_value()

    integers = [types.int64] * 4
    return types.void(*integers, head_dim, block, group, bf16), codegen


def attend(head_dim, block, group, kv_heads, bf16, query, keys, values, table, length, scores, out):
    """Attention of one query row over its first `length` positions.

    query, out: [kv_heads * group, head_dim] float32, the query scaled and rotated. keys, values: addresses of
    the layer's block pool. table: [blocks] int32. scores: scratch [blocks, group, block] float32.
    The five sizes are compile-time constants.
    """
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(attend, prefer_literal=True, jit_options=_FAST)
def _attend(head_dim, block, group, kv_heads, bf16, query, keys, values, table, length, scores, out):
    def implementation(
        head_dim, block, group, kv_heads, bf16, query, keys, values, table, length, scores, out
    ):
        for head in range(kv_heads):
            attend_head(
                head_dim, block, group, kv_heads, bf16, head, query, keys, values, table, length, scores, out
            )

    return implementation


def attend_head(
    head_dim, block, group, kv_heads, bf16, head, query, keys, values, table, length, scores, out
):
    """`attend` for the query heads of KV head `head`: they alone are written to `out`."""
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(attend_head, prefer_literal=True, jit_options=_FAST)
def _attend_head(
    head_dim, block, group, kv_heads, bf16, head, query, keys, values, table, length, scores, out
):
    d_size, t_size, g_size, h_size, narrow = _literals(head_dim, block, group, kv_heads, bf16)
    head_bytes = d_size * t_size * (2 if narrow else 4)

    def implementation(
        head_dim, block, group, kv_heads, bf16, head, query, keys, values, table, length, scores, out
    ):
        blocks = (length + t_size - 1) // t_size
        tail = length - (blocks - 1) * t_size
        base, rows = scores.ctypes.data, 4 * head * g_size * d_size
        for j in range(blocks):
            offset = (np.int64(table[j]) * h_size + head) * head_bytes
            part = base + 4 * j * g_size * t_size
            _block_scores(query.ctypes.data + rows, keys + offset, part, d_size, t_size, g_size, narrow)
        for g in range(g_size):
            for t in range(tail, t_size):
                scores[blocks - 1, g, t] = _MASKED
            _softmax(scores, blocks, g, t_size)
            for d in range(d_size):
                out[head * g_size + g, d] = np.float32(0.0)
        for j in range(blocks):
            offset = (np.int64(table[j]) * h_size + head) * head_bytes
            part = base + 4 * j * g_size * t_size
            count = tail if j == blocks - 1 else t_size
            address = out.ctypes.data + rows
            _block_values(part, values + offset, count, address, d_size, t_size, g_size, narrow)

    return implementation


def _softmax(scores, blocks, g, block):
    """Turns scores[:blocks, g, :] into probabilities, in place."""
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(_softmax, prefer_literal=True, jit_options=_FAST)
def _softmax_kernel(scores, blocks, g, block):
    (t_size,) = _literals(block)

    def implementation(scores, blocks, g, block):
        highest = _MASKED
        for j in range(blocks):
            for t in range(t_size):
                highest = max(highest, scores[j, g, t])
        total = np.float32(0.0)
        for j in range(blocks):
            for t in range(t_size):
                weight = exp32(scores[j, g, t] - highest)
                scores[j, g, t] = weight
                total += weight
        share = np.float32(1.0) / total
        for j in range(blocks):
            for t in range(t_size):
                scores[j, g, t] *= share

    return implementation


def rotate_and_store(
    head_dim, block, group, kv_heads, bf16, qkv, cosines, sines, scale, keys, values, block_id, slot, query
):
    """Rotates one row's q and k, scales q into `query`, and writes k and v into the block pool.

    qkv: [(kv_heads * group + 2 * kv_heads) * head_dim] float32. cosines, sines: [rotated / 2] float32 of the
    row's position. keys, values: [blocks, kv_heads, ...] of the layer, float32, or bf16 as uint16. The row
    stands at `slot` of block `block_id`. query: [kv_heads * group, head_dim] float32.
    """
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(rotate_and_store, prefer_literal=True, jit_options=_FAST)
def _rotate_and_store(
    head_dim, block, group, kv_heads, bf16, qkv, cosines, sines, scale, keys, values, block_id, slot, query
):
    d_size, g_size, h_size, narrow = _literals(head_dim, group, kv_heads, bf16)
    q_heads = g_size * h_size

    def implementation(
        head_dim,
        block,
        group,
        kv_heads,
        bf16,
        qkv,
        cosines,
        sines,
        scale,
        keys,
        values,
        block_id,
        slot,
        query,
    ):
        half = cosines.shape[0]
        for head in range(q_heads + h_size):
            row = qkv[head * d_size : (head + 1) * d_size]
            for i in range(half):
                low, high = row[i], row[i + half]
                row[i] = low * cosines[i] - high * sines[i]
                row[i + half] = high * cosines[i] + low * sines[i]
            if head < q_heads:
                for d in range(d_size):
                    query[head, d] = row[d] * scale
        for head in range(h_size):
            k = qkv[(q_heads + head) * d_size : (q_heads + head + 1) * d_size]
            v = qkv[(q_heads + h_size + head) * d_size : (q_heads + h_size + head + 1) * d_size]
            for d in range(d_size):
                keys[block_id, head, d, slot] = _narrow(k[d], narrow)
                values[block_id, head, slot, d] = _narrow(v[d], narrow)

    return implementation


def _narrow(value, bf16):
    """The value as the pool stores it: float32, or the bits of its nearest bf16 (ties to even)."""
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(_narrow, prefer_literal=True, inline="always")
def _narrow_kernel(value, bf16):
    if not bf16.literal_value:

        def unchanged(value, bf16):
            return value

        return unchanged

    def implementation(value, bf16):
        bits = np.uint32(bits_of_float(value))
        return np.uint16(
            (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        )

    return implementation
