"""How values become colours and labels: scales taken from the data, their encoding in bytes, units in unicode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError

__all__ = [
    "COLOUR_MAPS",
    "GREY",
    "MASKED",
    "N_LEVEL",
    "ColourScale",
    "ScaleKind",
    "colour_scale",
    "palette",
    "power_of_ten",
    "symmetric_scale",
    "unicode_units",
]

GREY = "#d9d9d9"
"""Masked places: a grey that is in none of the colour maps."""

COLOUR_MAPS = {
    "mean": "inferno",
    "std": "viridis",
    "significance": "cividis",
    "sample": "inferno",
    "difference": "RdBu_r",
    "residual": "RdBu_r",
    "gas": "magma",
    "coverage": "cividis",
}
"""Colour map of each kind of value: perceptually uniform, legible to the colour-blind, told apart at a glance."""

N_LEVEL = 255
"""Colours of an encoded map: 0 to 254."""

MASKED = 255
"""What a masked place is encoded as."""

LOG_SPAN = 30.0
"""Positive data that span more than this are drawn on a logarithmic scale."""

MAX_DECADES = 4.0
SUPERSCRIPT = str.maketrans("-+0123456789.", "⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹·")

ScaleKind = Literal["auto", "linear", "log"]


@dataclass(frozen=True, slots=True)
class ColourScale:
    """How the values of a map become colours."""

    low: float
    high: float
    kind: Literal["linear", "log"]
    power: int
    """The values are drawn, and the bar is labelled, in units of 10^power; 0 on a logarithmic scale."""
    extend: Literal["neither", "min", "max", "both"]
    """At which ends values lie beyond the scale."""

    def drawn(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Values in the unit of the bar, masked where not finite; a zero gets a log scale's lowest colour."""
        scaled = np.asarray(values, dtype=np.float64) / 10.0**self.power
        if self.kind == "log":
            scaled = np.where(np.isfinite(scaled), np.maximum(scaled, self.low / 10.0**self.power), np.nan)
        return np.ma.masked_invalid(scaled)

    def norm(self) -> Any:
        """The matplotlib normalisation."""
        from matplotlib.colors import LogNorm, Normalize

        return (LogNorm if self.kind == "log" else Normalize)(*self.bar)

    @property
    def bar(self) -> tuple[float, float]:
        """Ends of the colour bar, in the unit that it is labelled in."""
        return self.low / 10.0**self.power, self.high / 10.0**self.power

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Colours of values: 0 to 254 from low to high, beyond the ends the end's, 255 where not finite.

        Parameters
        ----------
        values : ndarray
            In the unit of the data, not of the bar.

        Examples
        --------
        >>> scale = ColourScale(1.0, 100.0, "log", 0, "neither")
        >>> scale.encode(np.array([0.1, 1.0, 10.0, 100.0, np.nan]))
        array([  0,   0, 127, 254, 255], dtype=uint8)
        """
        given = np.asarray(values, dtype=np.float32)
        low, high = (np.float32(math.log(v) if self.kind == "log" else v) for v in (self.low, self.high))
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.log(np.maximum(given, np.float32(self.low))) if self.kind == "log" else given
            place = (level - low) * np.float32((N_LEVEL - 1) / (high - low)) + np.float32(0.5)
            clipped = np.clip(place, 0, N_LEVEL - 0.5)
        return np.where(np.isfinite(given), clipped, MASKED).astype(np.uint8)


def colour_scale(values: npt.NDArray[Any], kind: ScaleKind = "auto") -> ColourScale:
    """A colour scale from the data themselves: their 1 to 99.5 % range, logarithmic where they span decades.

    Parameters
    ----------
    values : ndarray
        What is drawn; NaN is masked.
    kind : {"auto", "linear", "log"}
        A logarithmic scale is given only where there are positive values.

    Raises
    ------
    SchemaError
        If there is no finite value: such a panel is not drawn.

    Examples
    --------
    >>> colour_scale(np.geomspace(1e-4, 1e4, 1001)).kind
    'log'
    >>> colour_scale(np.linspace(1.0, 2.0, 1001)).kind
    'linear'
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        raise SchemaError("a map without a finite value has no colour scale")
    low, high = (float(value) for value in np.percentile(finite, (1.0, 99.5)))
    positive = finite[finite > 0]
    if kind != "linear" and positive.size and (kind == "log" or finite.min() >= 0):
        bottom, top = (float(value) for value in np.percentile(positive, (1.0, 99.5)))
        if kind == "log" or top > LOG_SPAN * bottom:
            low, high = max(bottom, top / 10.0**MAX_DECADES), top
            if not high > low:
                low, high = low / 1.05, high * 1.05
            return ColourScale(low, high, "log", 0, _extend(finite, low, high))
    if not high > low:
        # one value everywhere: centre it
        margin = abs(low) * 0.05 or 0.05
        low, high = low - margin, high + margin
    power = power_of_ten(max(abs(low), abs(high)))
    return ColourScale(low, high, "linear", power, _extend(finite, low, high))


def symmetric_scale(values: npt.NDArray[Any]) -> ColourScale:
    """A linear scale about zero that holds 99 % of the values, for differences.

    Raises
    ------
    SchemaError
        If there is no finite value.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        raise SchemaError("a map without a finite value has no colour scale")
    end = float(np.percentile(np.abs(finite), 99.0)) or float(np.abs(finite).max()) or 1.0
    return ColourScale(-end, end, "linear", power_of_ten(end), _extend(finite, -end, end))


@lru_cache(maxsize=32)
def palette(colours: str) -> tuple[str, ...]:
    """The `N_LEVEL` colours of a colour map and, last, that of masked places; as ``#rrggbb``."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = colormaps[colours](np.linspace(0.0, 1.0, N_LEVEL))
    return (*(to_hex(shade) for shade in shades), GREY)


def power_of_ten(largest: float) -> int:
    """The power of ten to take out of values up to ``largest``, so that an axis has short numbers.

    Examples
    --------
    >>> power_of_ten(6e-10), power_of_ten(150.0)
    (-10, 0)
    """
    return 0 if largest == 0 or 0.01 <= largest < 1e4 else math.floor(math.log10(largest))


def unicode_units(units: str, power: int = 0) -> str:
    """A unit as people write it, with a power of ten in front if there is one.

    Examples
    --------
    >>> unicode_units("GeV-1 cm-2")
    'GeV⁻¹ cm⁻²'
    >>> unicode_units("cm-3", -10)
    '10⁻¹⁰ cm⁻³'
    """
    words = []
    for word in units.split():
        start = len(word)
        while start and word[start - 1] in "-+0123456789.":
            start -= 1
        words.append(word[:start] + word[start:].translate(SUPERSCRIPT) if start else word)
    factor = [f"10{str(power).translate(SUPERSCRIPT)}"] if power else []
    return " ".join(factor + words)


def _extend(finite: npt.NDArray[Any], low: float, high: float) -> Literal["neither", "min", "max", "both"]:
    below, above = bool(finite.min() < low), bool(finite.max() > high)
    if below and above:
        return "both"
    return "min" if below else "max" if above else "neither"
