"""The innermost loops of matrix products, as emitted vector instructions: some rows by one panel of weights.

A panel holds PANEL output columns of a weight matrix so that it is read from front to back, in steps of
two vectors: int8 as [inputs / 4, PANEL, 4] uint8, each weight plus 128, because the instruction (VPDPBUSD)
multiplies unsigned by signed bytes; float32 as [inputs, PANEL]. Each output is summed over its inputs in
their order whatever the number of rows, so a row's result does not depend on its neighbours.
"""

import functools
import hashlib
from pathlib import Path

import numba
from llvmlite import binding, ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from cadenza.server.runner.cpu.intrinsics import emit_fetch

PANEL = 32
"""Output columns of a panel."""
MOST_ROWS = 12
"""Rows of a tile: 24 of the 32 vector registers accumulate."""
TILE_BYTES = 4 * MOST_ROWS * PANEL
"""Of the products of a tile."""
_WIDTH = 16
_VECTORS = PANEL // _WIDTH
_STEP_BYTES = 4 * PANEL
_AHEAD = 8192
"""Bytes of weights that are fetched ahead: further than the processor itself looks."""
_FEW_ROWS = 4
"""So few are computed as fast as weights are read, and asking for weights ahead only costs."""

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_SIGNATURE = "int32(int64, int64, int64, int64, int64, int64)"
_KEPT: list[object] = []
"""Compiled functions live as long as the process."""
_LANE_INDICES = ir.VectorType(_I32, _WIDTH)


def has_int8_products() -> bool:
    """Whether this processor has the instructions that the int8 tile is made of."""
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") and features.get("avx512bw"))


def has_float_products() -> bool:
    """Whether this processor has vectors of 16 float32."""
    return bool(binding.get_host_cpu_features().get("avx512f"))


@functools.cache
def tile_address(cache_dir: Path, *, int8: bool) -> int:
    """Compiles `multiply_tile` as a C function of its six integers, or takes it from Numba's cache.

    The function returns 0. Kernels call it by its address: it is much code, which would be compiled
    again with every model's kernels.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    numba.config.CACHE_DIR = str(cache_dir / "numba" / f"tiles-{digest}")
    compiled = _int8_tile() if int8 else _float_tile()
    _KEPT.append(compiled)
    return int(compiled.address)


def _int8_tile():
    @cfunc(_SIGNATURE, cache=True)
    def int8_tile(rows, stride, count, panel, steps, out):
        multiply_tile(1, rows, stride, count, panel, steps, out)
        return 0

    return int8_tile


def _float_tile():
    @cfunc(_SIGNATURE, cache=True)
    def float_tile(rows, stride, count, panel, steps, out):
        multiply_tile(0, rows, stride, count, panel, steps, out)
        return 0

    return float_tile


@intrinsic(prefer_literal=True)
def multiply_tile(typing_context, int8, rows, stride, count, panel, steps, out):
    """out[r, c] = sum over inputs i of rows[r, i] * panel[i, c], for `count` rows, 1 to MOST_ROWS.

    int8: compile-time 0 or 1. rows: address of the first row, int8 or float32; stride: bytes from row to row.
    panel: address; steps: inputs / 4 with int8, else inputs. out: address of [count, PANEL] int32 (weights as
    unsigned bytes), or float32.
    """
    narrow = bool(int8.literal_value)

    def codegen(context, builder, signature, args):
        _, first, row_stride, rows_given, panel_address, num_steps, target = args
        done = builder.append_basic_block("tile.done")
        choice = builder.switch(rows_given, done)
        for number in range(1, MOST_ROWS + 1):
            block = builder.append_basic_block(f"tile.{number}")
            choice.add_case(_I64(number), block)
            with builder.goto_block(block):
                _emit(builder, narrow, number, first, row_stride, panel_address, num_steps, target)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(int8, *[types.int64] * 6), codegen


@intrinsic
def value_range(typing_context, row, count):
    """The least and the greatest of `count` float32 at an address, and of 0; count is a multiple of 16."""

    def codegen(context, builder, signature, args):
        address, number = args
        vector = ir.VectorType(_F32, _WIDTH)
        zero = ir.Constant(vector, [0.0] * _WIDTH)
        low, high = (cgutils.alloca_once_value(builder, zero) for _ in range(2))
        with cgutils.for_range(builder, builder.udiv(number, _I64(_WIDTH))) as loop:
            at = builder.add(address, builder.mul(loop.index, _I64(4 * _WIDTH)))
            values = _load(builder, at, 0, vector)
            for slot, comparison in ((low, "<"), (high, ">")):
                best = builder.load(slot)
                better = builder.fcmp_ordered(comparison, values, best)
                builder.store(builder.select(better, values, best), slot)
        pair = [_reduce(builder, low, "min"), _reduce(builder, high, "max")]
        return context.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(types.float32, 2)(types.int64, types.int64), codegen


def _reduce(builder, slot, how):
    value = builder.load(slot)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_F32, [value.type]), f"llvm.vector.reduce.f{how}.v{_WIDTH}f32"
    )
    return builder.call(function, [value])


def _emit(builder, narrow, number, first, stride, panel, steps, out):
    element = _I32 if narrow else _F32
    vector = ir.VectorType(element, _WIDTH)
    zero = ir.Constant(vector, [0] * _WIDTH if narrow else [0.0] * _WIDTH)
    slots = {(r, v): cgutils.alloca_once(builder, vector) for r in range(number) for v in range(_VECTORS)}
    for slot in slots.values():
        builder.store(zero, slot)
    with cgutils.for_range(builder, steps) as loop:
        at = builder.add(panel, builder.mul(loop.index, _I64(_STEP_BYTES)))
        weights = [_load(builder, at, 64 * v, vector) for v in range(_VECTORS)]
        if number > _FEW_ROWS:
            for v in range(_VECTORS):
                emit_fetch(builder, builder.add(at, _I64(_AHEAD + 64 * v)))
        column = builder.add(first, builder.mul(loop.index, _I64(4)))
        for r in range(number):
            address = builder.add(column, builder.mul(stride, _I64(r)))
            inputs = _splat(builder, builder.load(builder.inttoptr(address, element.as_pointer())), vector)
            for v, weight in enumerate(weights):
                slot = slots[r, v]
                builder.store(_accumulate(builder, narrow, builder.load(slot), weight, inputs), slot)
    for (r, v), slot in slots.items():
        address = builder.add(out, _I64(_STEP_BYTES * r + 64 * v))
        builder.store(builder.load(slot), builder.inttoptr(address, vector.as_pointer())).align = 4


def _load(builder, address, offset, vector):
    value = builder.load(builder.inttoptr(builder.add(address, _I64(offset)), vector.as_pointer()))
    value.align = 4
    return value


def _splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(undefined, scalar, _I32(0)),
        undefined,
        ir.Constant(_LANE_INDICES, [0] * _WIDTH),
    )


def _accumulate(builder, narrow, total, weights, inputs):
    vector = total.type
    if narrow:
        name, operands = "llvm.x86.avx512.vpdpbusd.512", [total, weights, inputs]
    else:
        name, operands = f"llvm.fma.v{_WIDTH}f32", [weights, inputs, total]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(function, operands)
