"""What Numba lacks for kernels that never need Python: calls by address, atomics, reinterpreted bits.

With these a whole step runs in native code without Python's lock. Addresses are int64.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def call_address(typing_context, function, arguments):
    """Calls the C function at address `function` with a tuple of int64; returns its int result."""

    def codegen(context, builder, signature, args):
        values = [
            context.cast(builder, value, given, types.int64)
            for value, given in zip(
                cgutils.unpack_tuple(builder, args[1]), signature.args[1].types, strict=True
            )
        ]
        kind = ir.FunctionType(_I32, [_I64] * len(values))
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)

    return types.int32(types.int64, arguments), codegen


@intrinsic
def atomic_add(typing_context, address, amount):
    """Adds `amount` to the int64 at `address` for all threads to see; returns the value before."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typing_context, address):
    """Reads the int64 at `address` as other threads last wrote it."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def float_from_bits(typing_context, bits):
    """The float32 with these 32 bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def bits_of_float(typing_context, value):
    """The 32 bits of a float32, as int32."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], _I32)

    return types.int32(types.float32), codegen


@intrinsic
def borrow(typing_context, value):
    """The arrays of a (named) tuple, for as long as the caller's own live: nobody counts references.

    Counting is an atomic write to memory that all lanes share, at each call of each function.
    """

    def codegen(context, builder, signature, args):
        return _without_owner(context, builder, signature.args[0], args[0])

    return value(value), codegen


def _without_owner(context, builder, kind, value):
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = ir.Constant(array.meminfo.type, None)
        array.parent = ir.Constant(array.parent.type, None)
        return array._getvalue()  # noqa: SLF001  Numba's own way
    if isinstance(kind, types.BaseTuple):
        parts = zip(kind, cgutils.unpack_tuple(builder, value), strict=True)
        return context.make_tuple(
            builder, kind, [_without_owner(context, builder, part, item) for part, item in parts]
        )
    return value


def emit_fetch(builder, address) -> None:
    """Brings the cache line of an address into the second-level cache."""
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, cgutils.voidptr_t), _I32(0), _I32(2), _I32(1)])


@intrinsic
def pointer(typing_context, address):
    """An address as what numba.carray takes."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen
