"""Attention over the block pool, for one flat batch of rows, as Numba kernels.

A KV block holds `block` tokens of one layer: keys as [kv_heads, head_dim, block], so that a query meets all
keys of a block by multiplying whole vectors, and values as [kv_heads, block, head_dim]. Each query row is
computed alone, over its positions in order, so its result does not depend on the rest of the batch.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from cadenza.server.runner.cpu.intrinsics import bits_of_float, pointer
from cadenza.server.runner.cpu.mathematics import exp32

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_MASKED = np.float32(-1e30)
_FAST = {"fastmath": {"reassoc", "contract", "nsz", "nnan"}, "error_model": "numpy"}

# A tile keeps vector accumulators in registers, of which AVX-512 has 32: so many, of _TILE loaded vectors.
_ACCUMULATORS = 24
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


def _tiles(count: int, size: int = _TILE) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _literals(*literal_types) -> list[Any]:
    for literal in literal_types:
        if not isinstance(literal, types.Literal):
            raise TypingError(f"a compile-time constant is wanted, not {literal}")
    return [literal.literal_value for literal in literal_types]


@intrinsic(prefer_literal=True)
def _block_scores(typing_context, query, stride, keys, scores, head_dim, block, group, rows, bf16):
    """scores[i, t] = q[i] . keys[:, t] over a whole block, for i = r * group + g.

    q[i] is query head g of the `group` of one KV head, of row r: stride bytes behind row r - 1's.
    """
    d_size, t_size, g_size, r_size, narrow = _literals(head_dim, block, group, rows, bf16)
    width = math.gcd(16, t_size)
    row = t_size * (2 if narrow else 4)

    def codegen(context, builder, signature, args):
        vectors = _Vectors(builder, width)
        queries = _vectors_of(builder, args[0], args[1], r_size, g_size, d_size)
        t_tiles = _tiles(t_size // width)
        for qs in _tiles(r_size * g_size, _ACCUMULATORS // len(t_tiles[0])):
            for ts in t_tiles:
                slots = {(q, t): cgutils.alloca_once(builder, vectors.type) for q in qs for t in ts}
                for slot in slots.values():
                    builder.store(vectors.zero(), slot)
                with cgutils.for_range(builder, _I64(d_size)) as loop:
                    key_row = builder.mul(loop.index, _I64(row))
                    tile = [
                        vectors.load(args[2], builder.add(key_row, _I64(t * row * width // t_size)), narrow)
                        for t in ts
                    ]
                    element = builder.mul(loop.index, _I64(4))
                    for q in qs:
                        number = vectors.splat(queries[q], element)
                        for t, k in zip(ts, tile, strict=True):
                            vectors.accumulate(number, k, slots[q, t])
                for (q, t), slot in slots.items():
                    vectors.store(builder.load(slot), args[3], 4 * (q * t_size + t * width))
        return context.get_dummy_value()

    addresses = [types.int64] * 4
    return types.void(*addresses, head_dim, block, group, rows, bf16), codegen


@intrinsic(prefer_literal=True)
def _block_values(typing_context, weights, values, count, out, stride, head_dim, block, group, rows, bf16):
    """out[i] += sum over the block's first `count` tokens t of weights[i, t] * values[t], i as above."""
    d_size, t_size, g_size, r_size, narrow = _literals(head_dim, block, group, rows, bf16)
    width = math.gcd(16, d_size)
    row = d_size * (2 if narrow else 4)

    def codegen(context, builder, signature, args):
        vectors = _Vectors(builder, width)
        outs = _vectors_of(builder, args[3], args[4], r_size, g_size, d_size)
        d_tiles = _tiles(d_size // width)
        for qs in _tiles(r_size * g_size, _ACCUMULATORS // len(d_tiles[0])):
            for ds in d_tiles:
                slots = {(q, d): cgutils.alloca_once(builder, vectors.type) for q in qs for d in ds}
                for (q, d), slot in slots.items():
                    builder.store(vectors.load(outs[q], 4 * d * width), slot)
                with cgutils.for_range(builder, args[2]) as loop:
                    value_row = builder.mul(loop.index, _I64(row))
                    tile = [
                        vectors.load(args[1], builder.add(value_row, _I64(d * row * width // d_size)), narrow)
                        for d in ds
                    ]
                    element = builder.mul(loop.index, _I64(4))
                    for q in qs:
                        weight = vectors.splat(args[0], builder.add(element, _I64(4 * q * t_size)))
                        for d, v in zip(ds, tile, strict=True):
                            vectors.accumulate(weight, v, slots[q, d])
                for (q, d), slot in slots.items():
                    vectors.store(builder.load(slot), outs[q], 4 * d * width)
        return context.get_dummy_value()

    integers = [types.int64] * 5
    return types.void(*integers, head_dim, block, group, rows, bf16), codegen


def _vectors_of(builder, address, stride, rows, group, size):
    """Addresses of the vectors of `group` heads, each of so many float32, in each of `rows` rows."""
    return [
        builder.add(address, builder.add(builder.mul(stride, _I64(r)), _I64(4 * g * size)))
        for r in range(rows)
        for g in range(group)
    ]


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
    offset = 4 * group.literal_value * head_dim.literal_value

    def implementation(
        head_dim, block, group, kv_heads, bf16, head, query, keys, values, table, length, scores, out
    ):
        attend_rows(
            head_dim, block, group, 1, kv_heads, bf16, head, query.ctypes.data + head * offset, 0, keys,
            values, table, length, scores.ctypes.data, out.ctypes.data + head * offset, 0,
        )  # fmt: skip

    return implementation


def attend_rows(
    head_dim, block, group, rows, kv_heads, bf16, head, query, query_stride, keys, values, table, length,
    scores, out, out_stride,
):  # fmt: skip
    """Attention of `rows` consecutive tokens of a sequence, by the query heads of KV head `head`.

    query, out: addresses of the first row's heads; strides: bytes from row to row. length: positions that
    the first row attends to; each row attends to one more than the row before. scores: address of scratch
    [blocks, rows * group, block]. The first six are compile-time constants. A row's result is the same
    bits whatever rows are beside it.
    """
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(attend_rows, prefer_literal=True, jit_options=_FAST)
def _attend_rows(
    head_dim, block, group, rows, kv_heads, bf16, head, query, query_stride, keys, values, table, length,
    scores, out, out_stride,
):  # fmt: skip
    d_size, t_size, g_size, r_size, h_size, narrow = _literals(head_dim, block, group, rows, kv_heads, bf16)
    head_bytes = d_size * t_size * (2 if narrow else 4)
    part_bytes = 4 * r_size * g_size * t_size

    def implementation(
        head_dim, block, group, rows, kv_heads, bf16, head, query, query_stride, keys, values, table, length,
        scores, out, out_stride,
    ):  # fmt: skip
        positions = length + r_size - 1
        blocks = (positions + t_size - 1) // t_size
        weights = carray(pointer(scores), (blocks, r_size * g_size, t_size), np.float32)
        for j in range(blocks):
            offset = (np.int64(table[j]) * h_size + head) * head_bytes
            _block_scores(
                query, query_stride, keys + offset, scores + j * part_bytes, d_size, t_size, g_size, r_size,
                narrow,
            )  # fmt: skip
        for r in range(r_size):
            for g in range(g_size):
                _hide(weights, r * g_size + g, length + r, blocks, t_size, _MASKED)
                _softmax(weights, blocks, r * g_size + g, t_size)
                _hide(weights, r * g_size + g, length + r, blocks, t_size, np.float32(0.0))
                mixed = carray(pointer(out + r * out_stride + 4 * g * d_size), d_size, np.float32)
                for d in range(d_size):
                    mixed[d] = np.float32(0.0)
        for j in range(blocks):
            offset = (np.int64(table[j]) * h_size + head) * head_bytes
            count = min(t_size, positions - j * t_size)
            _block_values(
                scores + j * part_bytes, values + offset, count, out, out_stride, d_size, t_size, g_size,
                r_size, narrow,
            )  # fmt: skip

    return implementation


@njit(error_model="numpy")
def _hide(scores, i, length, blocks, block, value):
    """Sets what row i has for positions from `length` to the end of the last block."""
    for position in range(length, blocks * block):
        scores[position // block, i, position % block] = value


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
