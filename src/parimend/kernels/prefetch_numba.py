"""Asking memory for what is needed soon, in compiled loops.

What a processor fetches ahead on its own ends with every page, and where arithmetic takes long it
does not look far ahead.
"""
# mypy: ignore-errors

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


def ask(builder, pointer):
    """LLVM code that asks memory for what is at a pointer, which may be beyond an array's end."""
    byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
    fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    for_reading, soon, data = i32(0), i32(3), i32(1)
    builder.call(fetch, [builder.bitcast(pointer, byte), for_reading, soon, data])


@intrinsic
def prefetch(typing, array, index):
    """Ask memory for the line of an element of an array of one dimension without gaps, which may be
    beyond its end.
    """

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        ask(builder, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64), generate
