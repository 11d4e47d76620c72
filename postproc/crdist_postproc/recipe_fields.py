"""Types of the values in a recipe: numbers, extents, voxel sizes, bins, quantile levels, names."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, PlainSerializer

from crdist.settings_text import show

__all__ = ["RECIPE_CONFIG", "Bins", "Distances", "Extent", "Levels", "Name", "Number", "Voxel"]

RECIPE_CONFIG = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
"""Recipes are records: they do not change, and a key that nobody knows is a mistake."""


def _number(value: object) -> float:
    # YAML reads 1e-2 as text, so text that is a number counts; it reads yes as true, which is no number.
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise ValueError(f"must be a number, got {show(value)}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"must be a number, got {show(value)}") from None
    if not math.isfinite(number):
        raise ValueError(f"must be a finite number, got {show(value)}")
    # a negative zero would be another recipe with the same meaning
    return number + 0.0


def _numbers(value: object, expected: str, n: int | None = None) -> tuple[float, ...]:
    """The numbers of a sequence of n; ``expected`` says in the message what they are."""
    if not isinstance(value, Sequence) or isinstance(value, str) or (n is not None and len(value) != n):
        raise ValueError(f"must be {expected}, got {show(value)}")
    try:
        return tuple(_number(item) for item in value)
    except ValueError as error:
        raise ValueError(f"must be {expected}, got {show(value)}") from error


def _extent(value: object) -> tuple[float, ...]:
    expected = "[lower, upper] with lower < upper"
    numbers = _numbers(value, expected, 2)
    if not numbers[0] < numbers[1]:
        raise ValueError(f"must be {expected}, got {show(value)}")
    return numbers


def _distances(value: object) -> tuple[float, ...]:
    numbers = _extent(value)
    if numbers[0] < 0:
        raise ValueError(f"must be [lower, upper] with 0 <= lower < upper, got {show(value)}")
    return numbers


def _voxel(value: object) -> tuple[float, ...]:
    expected = "one positive number or three [dx, dy, dz]"
    if isinstance(value, Sequence) and not isinstance(value, str):
        sizes = _numbers(value, expected, 3)
    else:
        sizes = (_number(value),) * 3
    if not all(size > 0 for size in sizes):
        raise ValueError(f"must be {expected}, got {show(value)}")
    return sizes


def _bins(value: object) -> tuple[float, ...]:
    expected = "[start, stop, step] with a whole number of steps from start to stop"
    start, stop, step = _numbers(value, expected, 3)
    n = (stop - start) / step if step > 0 else 0.0
    if not (round(n) >= 1 and abs(n - round(n)) < 1e-6):
        raise ValueError(f"must be {expected}, got {show(value)}")
    return start, stop, step


def _levels(value: object) -> tuple[float, ...]:
    expected = "a list of increasing levels, each between 0 and 1, such as [0.16, 0.5, 0.84]"
    levels = _numbers(value, expected)
    inside = all(0 < level < 1 for level in levels)
    if not inside or any(low >= high for low, high in itertools.pairwise(levels)):
        raise ValueError(f"must be {expected}, got {show(value)}")
    return levels


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
        raise ValueError(f"must be letters, digits and _, a letter first, got {show(value)}")
    return value


def _plain_voxel(sizes: tuple[float, float, float]) -> Any:
    return sizes[0] if sizes[0] == sizes[1] == sizes[2] else list(sizes)


Number = Annotated[float, BeforeValidator(_number)]
"""A finite number."""

Extent = Annotated[tuple[float, float], BeforeValidator(_extent)]
"""Lower and upper end."""

Distances = Annotated[tuple[float, float], BeforeValidator(_distances)]
"""Lower and upper end of distances or radii, not negative."""

Voxel = Annotated[tuple[float, float, float], BeforeValidator(_voxel), PlainSerializer(_plain_voxel)]
"""Sizes along x, y and z; written as one number where they are equal."""

Bins = Annotated[tuple[float, float, float], BeforeValidator(_bins)]
"""Start, stop and step of equal bins."""

Levels = Annotated[tuple[float, ...], BeforeValidator(_levels)]
"""Quantile levels, increasing."""

Name = Annotated[str, AfterValidator(_name)]
"""Name of a product, which is that of its group in the store."""
