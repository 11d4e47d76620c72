"""Vector instructions over the samples of a cell, which lie side by side.

A plain loop over a dozen samples costs more in checks than in arithmetic, because the compiler cannot know that
source and target do not overlap. These intrinsics write the vector code down. Their width is the length of the
``lanes`` tuple, so that each width is compiled, and cached, once.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["add_vector", "blend_vector"]

FLAGS = ("contract",)


@intrinsic
def blend_vector(
    typing_context: Any,
    lanes: Any,
    target: Any,
    a: Any,
    b: Any,
    c: Any,
    d: Any,
    step: Any,
    weights: Any,
    stride: Any,
) -> Any:
    """Store at ``target`` the weighted sum of eight vectors of float32.

    The vectors lie at the addresses a, b, c, d and ``step`` bytes behind each; the eight weights are float32 at
    ``weights`` and every ``stride`` bytes on: four for the former, four for the latter.
    """
    width = lanes.count
    signature = types.void(lanes, *(types.int64,) * 8)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, *cells, step_, weights_, stride_ = arguments
        single, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), width)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        total = [None, None]
        for index, cell in enumerate(cells):
            for half in range(2):
                address = builder.add(cell, step_) if half else cell
                value = builder.load(builder.inttoptr(address, vector.as_pointer()), align=4)
                place = builder.add(weights_, builder.mul(stride_, ir.IntType(64)(4 * half + index)))
                weight = builder.load(builder.inttoptr(place, single.as_pointer()), align=4)
                undefined = ir.Constant(vector, ir.Undefined)
                spread = builder.insert_element(undefined, weight, ir.IntType(32)(0))
                term = builder.fmul(value, builder.shuffle_vector(spread, undefined, zeros), flags=FLAGS)
                total[half] = term if total[half] is None else builder.fadd(total[half], term, flags=FLAGS)
        result = builder.fadd(*total, flags=FLAGS)
        builder.store(result, builder.inttoptr(to, vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_vector(typing_context: Any, lanes: Any, total: Any, values: Any, weight: Any) -> Any:
    """Add ``weight`` times a vector of float32 at address ``values`` to the float64 ones at address ``total``."""
    width = lanes.count
    signature = types.void(lanes, types.int64, types.int64, types.float64)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, from_, weight_ = arguments
        singles = ir.VectorType(ir.FloatType(), width)
        doubles = ir.VectorType(ir.DoubleType(), width)
        value = builder.load(builder.inttoptr(from_, singles.as_pointer()), align=4)
        undefined = ir.Constant(doubles, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        spread = builder.insert_element(undefined, weight_, ir.IntType(32)(0))
        term = builder.fmul(
            builder.fpext(value, doubles), builder.shuffle_vector(spread, undefined, zeros), flags=FLAGS
        )
        place = builder.inttoptr(to, doubles.as_pointer())
        builder.store(builder.fadd(builder.load(place, align=8), term, flags=FLAGS), place, align=8)
        return context.get_dummy_value()

    return signature, generate
