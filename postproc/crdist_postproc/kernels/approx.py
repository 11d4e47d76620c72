"""Elementary functions as short polynomials that compilers turn into SIMD code.

The mathematical library's versions are calls and keep a loop scalar. These are branch-free and good to 1e-12, far below
the 1e-7 of the float32 samples that they weigh.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

__all__ = ["FASTMATH", "UNCOUNTED", "angle_of_half", "exp", "exp2_single", "log", "log2_single", "sin_small", "whole"]

FASTMATH = {"contract", "nsz"}
"""What may be relaxed. Not ``reassoc``: sums must not depend on how a compiler groups them. Not ``nnan``: masked
samples are NaN."""

UNCOUNTED: dict[str, Any] = {"_nrt": False}
"""Option of functions that make no arrays: do not count who uses the arrays they are given. The counts are atomic, and
some thirty for each tile took a tenth of a kernel's time."""

LN_2 = math.log(2.0)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def angle_of_half(t: float) -> float:
    """The angle whose half has the tangent t, in [0, tan(pi/8)], to 1e-12.

    The half of the angle of (x, y) has the tangent y / (x + sqrt(x^2 + y^2)): no further root is needed.
    """
    s = t * t
    p = -0.037655106736077915
    p = p * s + 0.06974197786440932
    p = p * s - 0.08992552952237326
    p = p * s + 0.11103456918050883
    p = p * s - 0.14285386554550653
    p = p * s + 0.19999993053582293
    p = p * s - 0.33333333276922594
    p = p * s + 0.9999999999992447
    return 2.0 * t * p


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def sin_small(x: float) -> float:
    """The sine of x in [0, 0.43], to 1e-14: its Taylor series."""
    s = x * x
    p = -1.0 / 39916800.0
    p = p * s + 1.0 / 362880.0
    p = p * s - 1.0 / 5040.0
    p = p * s + 1.0 / 120.0
    p = p * s - 1.0 / 6.0
    return x + x * s * p


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def log(x: float) -> float:
    """The natural logarithm of a positive normal number, to 1e-14."""
    bits = np.float64(x).view(np.int64)
    exponent = np.float64(((bits >> 52) & 0x7FF) - 1023)
    mantissa = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    large = mantissa > 1.4142135623730951
    mantissa = 0.5 * mantissa if large else mantissa
    exponent = exponent + 1.0 if large else exponent
    t = (mantissa - 1.0) / (mantissa + 1.0)
    s = t * t
    p = 0.19608201108842788
    p = p * s + 0.22174241207032733
    p = p * s + 0.2857216638833998
    p = p * s + 0.39999994888962763
    p = p * s + 0.6666666667958675
    p = p * s + 1.9999999999999474
    return exponent * LN_2 + t * p


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def exp(x: float) -> float:
    """The exponential, to 1e-12 relative; 0 below -700, infinite above 709, NaN for NaN."""
    bounded = min(max(x, -700.0), 709.0)
    power = np.floor(bounded * (1.0 / LN_2) + 0.5)
    r = bounded - power * LN_2
    p = 2.487617674798133e-05
    p = p * r + 0.00019915878561238502
    p = p * r + 0.001388882165074321
    p = p * r + 0.0083332660767682
    p = p * r + 0.041666666891158666
    p = p * r + 0.1666666689115404
    p = p * r + 0.49999999999797345
    p = p * r + 0.9999999999797716
    p = p * r + 1.0
    value = p * np.int64((np.int64(power) + 1023) << 52).view(np.float64)
    value = 0.0 if x < -700.0 else value
    value = math.inf if x > 709.0 else value
    return x if x != x else value


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def whole(x: float) -> np.int64:
    """The integer that a whole number in [0, 2^52) is: only AVX-512 converts vectors of 64 bits itself."""
    return np.float64(x + 4503599627370496.0).view(np.int64) & 0xFFFFFFFFFFFFF


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def exp2_single(x: np.float32) -> np.float32:
    """Two to the power of x in single precision, to 2e-7; 0 below -126, infinite above 127, NaN for NaN."""
    one = np.float32
    bounded = min(max(x, one(-126.0)), one(127.0))
    power = np.floor(bounded + one(0.5))
    r = bounded - power
    # the series of the exponential function of r ln 2
    p = one(1.5252733804059841e-05)
    p = p * r + one(0.00015403530393381608)
    p = p * r + one(0.0013333558146428441)
    p = p * r + one(0.009618129107628477)
    p = p * r + one(0.05550410866482158)
    p = p * r + one(0.24022650695910072)
    p = p * r + one(0.6931471805599453)
    p = p * r + one(1.0)
    value = p * np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32)
    value = one(0.0) if x < one(-126.0) else value
    value = one(math.inf) if x > one(127.0) else value
    return x if x != x else value


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def log2_single(x: np.float32, exponent: np.float32) -> np.float32:
    """The binary logarithm of x / 2^exponent in single precision, rounded once; of normal positive numbers."""
    one = np.float32
    # a plain number is an integer of 64 bits, and would make the vectors twice as long
    whole_ = np.int32
    bits = one(x).view(np.int32)
    power = one(whole_(whole_(whole_(bits >> whole_(23)) & whole_(0xFF)) - whole_(127)))
    m = whole_(whole_(bits & whole_(0x7FFFFF)) | whole_(0x3F800000)).view(np.float32)
    large = m > one(1.4142135)
    m = one(0.5) * m if large else m
    power = power + one(1.0) if large else power
    t = (m - one(1.0)) / (m + one(1.0))
    t2 = t * t
    # 2 / ln 2 times atanh(t)
    p = one(0.32059889797532520)
    p = p * t2 + one(0.41219858311113238)
    p = p * t2 + one(0.57707801635558534)
    p = p * t2 + one(0.96179669392597560)
    p = p * t2 + one(2.8853900817779268)
    return (power - exponent) + t * p
