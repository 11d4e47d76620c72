"""The prior of the density: a log-normal field with uncertain scale, offset, correlation length and slope."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import RecipeError

__all__ = ["LogNormal", "Prior"]

LOWEST_SLOPE = 3.1
"""A spectrum in three dimensions with a slope of 3 or less has no finite variance; this keeps a little away."""


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal distribution, given by the mean and the standard deviation of the variable itself.

    Parameters
    ----------
    mean, std : float
        Both positive.

    Raises
    ------
    RecipeError
        If one of them is not.

    Examples
    --------
    >>> LogNormal(6.0, 3.0).median
    5.366563145999495
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (self.mean > 0 and self.std > 0 and math.isfinite(self.mean + self.std)):
            raise RecipeError(
                f"a log-normal prior needs a positive mean and std, got mean {self.mean:g} and std {self.std:g}"
            )

    @property
    def log_std(self) -> float:
        """Standard deviation of the logarithm."""
        return math.sqrt(math.log1p((self.std / self.mean) ** 2))

    @property
    def log_mean(self) -> float:
        """Mean of the logarithm."""
        return math.log(self.mean) - 0.5 * self.log_std**2

    @property
    def median(self) -> float:
        """Median."""
        return math.exp(self.log_mean)

    def value(self, excitation: Any) -> Any:
        """The value at a standard normal excitation; for floats, NumPy and JAX arrays."""
        import jax.numpy as jnp

        return jnp.exp(self.log_mean + self.log_std * excitation)

    def excitation(self, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The standard normal excitation of a value."""
        return np.asarray((np.log(value) - self.log_mean) / self.log_std)

    def log_density(self, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Natural logarithm of the probability density per unit of the value."""
        value = np.asarray(value, dtype=np.float64)
        normalisation = np.log(value) + math.log(self.log_std) + 0.5 * math.log(2.0 * math.pi)
        return np.asarray(-0.5 * self.excitation(value) ** 2 - normalisation)


@dataclass(frozen=True, slots=True)
class Prior:
    """``density = exp(scale * s + offset)``, s a Gaussian field of unit variance with a Matern spectrum.

    Parameters
    ----------
    scale : LogNormal
        Standard deviation of the natural logarithm of the density.
    slope : LogNormal
        Logarithmic slope of the spectrum, ``P(k) ~ [1 + (k length)^2]^(-slope / 2)``; truncated at 3.1.
    length : LogNormal, kpc
        Correlation length as in that spectrum.
    offset_mean, offset_std : float
        Normal prior of the mean of ln(density / cm-3).

    Notes
    -----
    The defaults are the reference analysis' (its table 2, as far as it can be read). The offset's mean is that of the
    locally measured spectrum, ln(6.0e-10).
    """

    scale: LogNormal = field(default_factory=lambda: LogNormal(1.5, 3.0))
    slope: LogNormal = field(default_factory=lambda: LogNormal(6.0, 2.0))
    length: LogNormal = field(default_factory=lambda: LogNormal(6.0, 3.0))
    offset_mean: float = -21.2
    offset_std: float = 4.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.offset_mean) and self.offset_std > 0):
            raise RecipeError(
                f"the offset's prior needs a mean and a positive std, got {self.offset_mean:g} and {self.offset_std:g}"
            )

    def to_dict(self) -> dict[str, Any]:
        """A plain mapping; ``from_dict`` takes it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Prior:
        """From a plain mapping; what is left out keeps its default."""
        known = {item.name for item in fields(cls)}
        if unknown := set(values) - known:
            raise RecipeError(f"prior: unknown key {sorted(unknown)[0]!r}; it has {', '.join(sorted(known))}")
        given: dict[str, Any] = {k: LogNormal(**v) if isinstance(v, dict) else v for k, v in values.items()}
        return cls(**given)

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """Draw scale, slope, length [kpc] and offset; the slope from its truncated prior."""
        slope = 0.0
        while slope < LOWEST_SLOPE:
            slope = float(np.exp(self.slope.log_mean + self.slope.log_std * rng.standard_normal()))
        return {
            "scale": float(np.exp(self.scale.log_mean + self.scale.log_std * rng.standard_normal())),
            "slope": slope,
            "length": float(np.exp(self.length.log_mean + self.length.log_std * rng.standard_normal())),
            "offset": self.offset_mean + self.offset_std * float(rng.standard_normal()),
        }
