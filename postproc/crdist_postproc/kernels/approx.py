"""Elementary functions as short polynomials that compilers turn into SIMD code.

The mathematical library's versions are calls and keep a loop scalar. These are branch-free and good to 1e-12, far below
the 1e-7 of the float32 samples that they weigh.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["FASTMATH", "atan2_positive", "atan_fraction", "exp", "log"]

FASTMATH = {"contract", "nsz"}
"""What may be relaxed. Not ``reassoc``: sums must not depend on how a compiler groups them. Not ``nnan``: masked
samples are NaN."""

HALF_PI = 0.5 * math.pi
LN_2 = math.log(2.0)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def atan_fraction(x: float) -> float:
    """The arc tangent of x in [0, 1], to 1e-12: atan(x) = 2 atan(x / (1 + sqrt(1 + x^2))), then a polynomial."""
    t = x / (1.0 + math.sqrt(1.0 + x * x))
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
def atan2_positive(y: float, x: float) -> float:
    """The angle of (x, y) in [0, 2 pi); 0 at the origin."""
    ax = abs(x)
    ay = abs(y)
    angle = atan_fraction(min(ax, ay) / (max(ax, ay) + 1e-300))
    angle = HALF_PI - angle if ay > ax else angle
    angle = math.pi - angle if x < 0.0 else angle
    return 2.0 * math.pi - angle if y < 0.0 else angle


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
