"""Vector instructions over the samples of a cell, which lie side by side.

A plain loop over a dozen samples costs more in checks than in arithmetic, because the compiler cannot know that
source and target do not overlap. These intrinsics write the vector code down. Their width is the length of the
``lanes`` tuple, so that each width is compiled, and cached, once.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import types

__all__ = [
    "add_four_vectors",
    "add_moments",
    "add_sloped_vector",
    "add_vector",
    "blend_rows",
    "blend_vector",
    "look_up",
    "mix_vector",
    "prefer_wide_vectors",
    "prefetch",
]

FLAGS = ("contract",)

intrinsic: Any = extending.intrinsic
"""By its type a call never returns, which holds for calls from Python alone."""


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

    The vectors lie at the addresses a, b, c, d and ``step`` bytes behind each. Six float32 at ``weights`` and every
    ``stride`` bytes on are the weights of a, b, c, d among themselves, of these four, and of those behind.
    """
    width = lanes.count
    signature = types.void(lanes, *(types.int64,) * 8)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, *cells, step_, weights_, stride_ = arguments
        single, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), width)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        undefined = ir.Constant(vector, ir.Undefined)

        def weight(index: int) -> Any:
            place = builder.add(weights_, builder.mul(stride_, ir.IntType(64)(index)))
            value = builder.load(builder.inttoptr(place, single.as_pointer()), align=4)
            return builder.shuffle_vector(builder.insert_element(undefined, value, ir.IntType(32)(0)), undefined, zeros)

        def total(addresses: list[Any]) -> Any:
            sum_ = None
            for index, address in enumerate(addresses):
                value = builder.load(builder.inttoptr(address, vector.as_pointer()), align=4)
                term = builder.fmul(value, weight(index), flags=FLAGS)
                sum_ = term if sum_ is None else builder.fadd(sum_, term, flags=FLAGS)
            return sum_

        here, there = total(cells), total([builder.add(cell, step_) for cell in cells])
        here, there = builder.fmul(here, weight(4), flags=FLAGS), builder.fmul(there, weight(5), flags=FLAGS)
        builder.store(builder.fadd(here, there, flags=FLAGS), builder.inttoptr(to, vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def mix_vector(typing_context: Any, lanes: Any, target: Any, source: Any, step: Any, part: Any) -> Any:
    """Store at ``target`` the float32 at ``source``, and a part of the way to those ``step`` bytes behind."""
    width = lanes.count
    signature = types.void(lanes, types.int64, types.int64, types.int64, types.float32)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, from_, step_, part_ = arguments
        vector = ir.VectorType(ir.FloatType(), width)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        undefined = ir.Constant(vector, ir.Undefined)
        spread = builder.insert_element(undefined, part_, ir.IntType(32)(0))
        share = builder.shuffle_vector(spread, undefined, zeros)
        here = builder.load(builder.inttoptr(from_, vector.as_pointer()), align=4)
        there = builder.load(builder.inttoptr(builder.add(from_, step_), vector.as_pointer()), align=4)
        more = builder.fmul(share, builder.fsub(there, here, flags=FLAGS), flags=FLAGS)
        builder.store(builder.fadd(here, more, flags=FLAGS), builder.inttoptr(to, vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Have the memory at an address brought near, without waiting for it."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
        place = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        # to read, to be kept in all caches, data
        builder.call(function, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


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


@intrinsic
def add_four_vectors(typing_context: Any, lanes: Any, total: Any, values: Any, stride: Any) -> Any:
    """Add four vectors of float32, at address ``values`` and every ``stride`` bytes on, to float64 ones at ``total``.

    Four, because each addition to memory waits for the one before.
    """
    width = lanes.count
    signature = types.void(lanes, types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, from_, stride_ = arguments
        singles = ir.VectorType(ir.FloatType(), width)
        doubles = ir.VectorType(ir.DoubleType(), width)
        terms = []
        for _ in range(4):
            terms.append(builder.fpext(builder.load(builder.inttoptr(from_, singles.as_pointer()), align=4), doubles))
            from_ = builder.add(from_, stride_)
        a, b, c, d = terms
        term = builder.fadd(builder.fadd(a, b, flags=FLAGS), builder.fadd(c, d, flags=FLAGS), flags=FLAGS)
        place = builder.inttoptr(to, doubles.as_pointer())
        builder.store(builder.fadd(builder.load(place, align=8), term, flags=FLAGS), place, align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_moments(typing_context: Any, lanes: Any, total: Any, values: Any, origin: Any) -> Any:
    """Add up the deviations of a vector of float32 at ``values`` from ``origin``, and their squares.

    Both sums are added to the two float64 at address ``total``.
    """
    width = lanes.count
    signature = types.void(lanes, types.int64, types.int64, types.float64)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, from_, origin_ = arguments
        doubles = ir.VectorType(ir.DoubleType(), 4)
        undefined = ir.Constant(doubles, ir.Undefined)

        def pick(one: Any, other: Any, places: list[int]) -> Any:
            return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))

        spread = pick(builder.insert_element(undefined, origin_, ir.IntType(32)(0)), undefined, [0] * 4)
        # four partial sums of either kind, then two, then one
        sums = squares = None
        for first in range(0, width, 4):
            place = builder.add(from_, ir.IntType(64)(4 * first))
            singles = builder.load(builder.inttoptr(place, ir.VectorType(ir.FloatType(), 4).as_pointer()), align=4)
            deviation = builder.fsub(builder.fpext(singles, doubles), spread, flags=FLAGS)
            square = builder.fmul(deviation, deviation, flags=FLAGS)
            sums = deviation if sums is None else builder.fadd(sums, deviation, flags=FLAGS)
            squares = square if squares is None else builder.fadd(squares, square, flags=FLAGS)
        pairs = builder.fadd(pick(sums, squares, [0, 1, 4, 5]), pick(sums, squares, [2, 3, 6, 7]), flags=FLAGS)
        both = builder.fadd(pick(pairs, pairs, [0, 2]), pick(pairs, pairs, [1, 3]), flags=FLAGS)
        place = builder.inttoptr(to, ir.VectorType(ir.DoubleType(), 2).as_pointer())
        builder.store(builder.fadd(builder.load(place, align=8), both, flags=FLAGS), place, align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def prefer_wide_vectors(typing_context: Any) -> Any:
    """Let the compiler use 512-bit vectors in the calling function, where the processor has them.

    LLVM avoids them by default, for the sake of the first processors that had them and slowed down.
    """

    def generate(context: Any, builder: Any, *_: Any) -> Any:
        # llvmlite's own method accepts only attributes that take no value
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def add_sloped_vector(
    typing_context: Any, lanes: Any, total: Any, values: Any, stride: Any, a: Any, b: Any, c: Any, d: Any
) -> Any:
    """Add a, b, c, d times the vectors of float32 at ``values`` and every ``stride`` bytes on to float64 ones."""
    width = lanes.count
    signature = types.void(lanes, *(types.int64,) * 3, *(types.float64,) * 4)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, from_, stride_, *weights = arguments
        singles = ir.VectorType(ir.FloatType(), width)
        doubles = ir.VectorType(ir.DoubleType(), width)
        undefined = ir.Constant(doubles, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        term = None
        for weight in weights:
            value = builder.load(builder.inttoptr(from_, singles.as_pointer()), align=4)
            spread = builder.insert_element(undefined, weight, ir.IntType(32)(0))
            part = builder.fmul(
                builder.fpext(value, doubles), builder.shuffle_vector(spread, undefined, zeros), flags=FLAGS
            )
            term = part if term is None else builder.fadd(term, part, flags=FLAGS)
            from_ = builder.add(from_, stride_)
        place = builder.inttoptr(to, doubles.as_pointer())
        builder.store(builder.fadd(builder.load(place, align=8), term, flags=FLAGS), place, align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def blend_rows(
    typing_context: Any,
    lanes: Any,
    target: Any,
    centre: Any,
    x: Any,
    y: Any,
    z: Any,
    weights: Any,
    step: Any,
) -> Any:
    """Store at ``target``, as float32, the weighted sum of seven vectors of float64.

    They lie at the address ``centre``, x bytes before and behind it, y bytes and z bytes. The weights are float64, too,
    at address ``weights`` and every ``step`` bytes on.
    """
    width = lanes.count
    signature = types.void(lanes, *(types.int64,) * 7)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, centre_, *strides, weights_, step_ = arguments
        double, vector = ir.DoubleType(), ir.VectorType(ir.DoubleType(), width)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        undefined = ir.Constant(vector, ir.Undefined)
        places = [centre_]
        for stride in strides:
            places += [builder.sub(centre_, stride), builder.add(centre_, stride)]
        total = None
        for place in places:
            at = builder.inttoptr(weights_, double.as_pointer())
            spread = builder.insert_element(undefined, builder.load(at, align=8), ir.IntType(32)(0))
            value = builder.load(builder.inttoptr(place, vector.as_pointer()), align=8)
            term = builder.fmul(value, builder.shuffle_vector(spread, undefined, zeros), flags=FLAGS)
            weights_ = builder.add(weights_, step_)
            total = term if total is None else builder.fadd(total, term, flags=FLAGS)
        singles = ir.VectorType(ir.FloatType(), width)
        builder.store(builder.fptrunc(total, singles), builder.inttoptr(to, singles.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def look_up(typing_context: Any, lanes: Any, target: Any, table: Any, places: Any) -> Any:
    """Store at ``target`` the float64 of a table at address ``table`` whose places, whole float64, are at ``places``.

    A loop that did so would store them one by one, and whoever loads them next as a vector would wait for that.
    """
    width = lanes.count
    signature = types.void(lanes, *(types.int64,) * 3)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, table_, places_ = arguments
        double, whole, bit = ir.DoubleType(), ir.IntType(64), ir.IntType(1)
        doubles, wholes = ir.VectorType(double, width), ir.VectorType(whole, width)
        pointers = ir.VectorType(double.as_pointer(), width)
        undefined = ir.Constant(wholes, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        begin = builder.shuffle_vector(builder.insert_element(undefined, table_, ir.IntType(32)(0)), undefined, zeros)
        place = builder.load(builder.inttoptr(places_, doubles.as_pointer()), align=8)
        offset = builder.shl(builder.fptosi(place, wholes), ir.Constant(wholes, [3] * width))
        at = builder.inttoptr(builder.add(begin, offset), pointers)
        mask = ir.VectorType(bit, width)
        kind = ir.FunctionType(doubles, [pointers, ir.IntType(32), mask, doubles])
        name = f"llvm.masked.gather.v{width}f64.v{width}p0"
        function = builder.module.declare_intrinsic(name, (), kind)
        found = builder.call(
            function,
            [at, ir.IntType(32)(8), ir.Constant(mask, [1] * width), ir.Constant(doubles, ir.Undefined)],
        )
        builder.store(found, builder.inttoptr(to, doubles.as_pointer()), align=8)
        return context.get_dummy_value()

    return signature, generate
