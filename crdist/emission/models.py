"""Emissivity models by name: those of crdist, those registered in this process, and those of installed packages."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from crdist.emission.hadronic import band_coefficient, kafexhiu_band_coefficient
from crdist.errors import CrdistError, RecipeError
from crdist.plugins import PluginTable

__all__ = ["MODELS", "BandCoefficient", "evaluate_model", "register_model"]


@runtime_checkable
class BandCoefficient(Protocol):
    """K [cm3 s-1] for C = 1 cm-3 and one nucleon per cm3."""

    def __call__(self, alpha: float, e_min_gev: float, e_max_gev: float, /) -> float:
        """For protons of slope alpha, in a band of photons."""


def _dp04(alpha: float, e_min_gev: float, e_max_gev: float) -> float:
    return float(band_coefficient(alpha, e_min_gev, e_max_gev))


def _kafexhiu(alpha: float, e_min_gev: float, e_max_gev: float) -> float:
    return float(kafexhiu_band_coefficient(alpha, e_min_gev, e_max_gev))


MODELS: PluginTable[BandCoefficient] = PluginTable(
    "crdist.emissivity",
    BandCoefficient,  # type: ignore[type-abstract]  # what is asked of a model is that it can be called
    {"dp04": _dp04, "kafexhiu": _kafexhiu},
    what="function (alpha, e_min_gev, e_max_gev)",
)
"""The known models, by name; `register_model` and installed packages add to them."""


def register_model(name: str, band_coefficient_function: BandCoefficient) -> None:
    """Make an emissivity model known by a name, for this process.

    Parameters
    ----------
    name : str
        What `Emissivity` will call it. A package that is installed can offer its models without this call, as entry
        points of the group ``crdist.emissivity``.
    band_coefficient_function : callable
        ``(alpha, e_min_gev, e_max_gev) -> K``, floats, cm3 s-1 for C = 1 cm-3 and one nucleon per cm3.

    Raises
    ------
    RecipeError
        If the name is empty or taken, by another function or by an installed package, or the function is not callable.
    """
    if not isinstance(name, str) or not name.strip():
        raise RecipeError(f"an emissivity model needs a name, got {name!r}")
    if not callable(band_coefficient_function):
        raise RecipeError(f"emissivity model {name!r} must be a function, got {band_coefficient_function!r}")
    plugin = MODELS.plugin(name)
    if plugin is not None:
        raise RecipeError(f"emissivity model {name!r} is that of {plugin.package} already; choose another name")
    if MODELS.builtin.setdefault(name, band_coefficient_function) is not band_coefficient_function:
        raise RecipeError(f"emissivity model {name!r} exists already; choose another name")


def evaluate_model(name: str, alpha: float, e_min_gev: float, e_max_gev: float) -> float:
    """The band coefficient K of a model, cm3 s-1.

    Raises
    ------
    RecipeError
        If there is no such model, it fails, or its K is not positive and finite.
    DependencyError
        If it is that of an installed package and cannot be loaded.
    """
    if name not in MODELS:
        raise RecipeError(f"no emissivity model {name!r}; there are {', '.join(MODELS)}")
    model, plugin = MODELS[name], MODELS.plugin(name)
    whose = f"emissivity model {name!r}" + ("" if plugin is None else f" of {plugin.package}")
    try:
        value = float(model(alpha, e_min_gev, e_max_gev))
    except CrdistError:
        raise
    except Exception as error:  # a model is anybody's code
        raise RecipeError(f"{whose} failed: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not (math.isfinite(value) and value > 0):
        raise RecipeError(
            f"{whose} gives K = {value:g} cm3 s-1 for alpha = {alpha:g} and "
            f"{e_min_gev:g} to {e_max_gev:g} GeV; K must be positive"
        )
    return value
