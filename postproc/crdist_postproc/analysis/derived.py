"""Fields made from others by an expression, sample by sample, with their units: ``k * c * n``.

Correlations stay: what is computed from the samples of one posterior is computed from each sample.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy import units as u

from crdist import emission
from crdist.constants import PROTON_GEV
from crdist.errors import GridError, RecipeError, SchemaError
from crdist.units import parse_unit, unit_text
from crdist_postproc.analysis.samples import units_of
from crdist_postproc.lazy import spherical_grid_of

__all__ = ["Pairing", "cosmic_ray_pressure", "derive", "source_density"]

Pairing = Literal["joint", "independent"]
"""What the samples of different stores with the same index have to do with each other."""

Value = tuple[Any, Any]
"""An array or number, and its unit."""

FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {"exp": np.exp, "log": np.log, "log10": np.log10}
"""Of a dimensionless argument."""

SAME_UNIT: Mapping[type, Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Sub: operator.sub}
SCALING: Mapping[type, Callable[[Any, Any], Any]] = {ast.Mult: operator.mul, ast.Div: operator.truediv}


def derive(
    expression: str,
    fields: Mapping[str, Any],
    *,
    units: str | None = None,
    name: str = "derived",
    long_name: str | None = None,
    pairing: Pairing | None = None,
) -> xr.DataArray:
    """A field computed from others, sample by sample, lazily.

    Parameters
    ----------
    expression : str
        Names, numbers, ``+ - * / **`` (the exponent a number), parentheses, ``exp``, ``log``, ``log10`` and ``sqrt``.
    fields : mapping of str to DataArray, Quantity or number
        What the names mean. Arrays on the native grid must be on the same one. An array without samples, such as a
        mean, goes with each sample of the others.
    units : str, optional
        Unit of the result; default: what follows from those of the fields.
    name, long_name : str
        Of the result; default for the latter: the expression.
    pairing : {"joint", "independent"}, optional
        Needed where samples of different stores meet: ``joint``, those with the same index are one draw of both, such
        as of one inference; ``independent``, the two know nothing of each other, and pairing by index is as good as
        any. Stores with different numbers of samples pair as many as the smaller has, only if they are independent.

    Returns
    -------
    DataArray of float64, lazy where a field is
        With the expression and the fields' descriptions in its attributes.

    Raises
    ------
    RecipeError
        If the expression cannot be followed, a name has no meaning, or units do not fit.
    GridError
        If fields are on different grids.
    SchemaError
        If a field has no units, or samples of different stores meet and ``pairing`` does not say how.

    Examples
    --------
    >>> n = xr.DataArray([1.0, 2.0], dims="sample", attrs={"units": "cm-3"})
    >>> twice = derive("sigma * c * n", {"n": n, "sigma": 30e-27 * u.cm**2, "c": 3e10 * u.cm / u.s}, units="s-1")
    >>> twice.values, twice.attrs["units"]
    (array([9.0e-16, 1.8e-15]), 's-1')
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise RecipeError(f"expression {expression!r} cannot be read: {error.msg}") from error
    arrays = {key: value for key, value in fields.items() if isinstance(value, xr.DataArray)}
    _check_grids(expression, arrays)
    arrays = _paired(expression, arrays, pairing)
    values = {key: _value(key, arrays.get(key, value)) for key, value in fields.items()}
    data, unit = _evaluate(tree.body, values, expression)
    if units is not None:
        data, unit = data * _factor(unit, parse_unit(units), expression), parse_unit(units)
    if not isinstance(data, xr.DataArray):
        raise RecipeError(f"expression {expression!r} uses no field; its value is the number {data:g}")
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    parents = {key: str(array.attrs.get("long_name", array.name)) for key, array in arrays.items() if key in used}
    constants = {key: str(value) for key, value in fields.items() if key not in arrays and key in used}
    text, factor = unit_text(unit)
    result = (data * factor if factor != 1.0 else data).rename(name)
    result.attrs = {
        "units": units if units is not None else text,
        "long_name": long_name or expression,
        "expression": expression,
        "fields": {**parents, **constants},
    }
    if pairing is not None:
        result.attrs["pairing"] = pairing
    return result


def source_density(
    c: xr.DataArray,
    hydrogen: xr.DataArray,
    emissivity: emission.Emissivity | None = None,
    *,
    pairing: Pairing | None = None,
) -> xr.DataArray:
    """Hadronic source density of gamma rays in a band, K C n_N, sample by sample, lazily.

    Parameters
    ----------
    c : DataArray, cm-3
        Normalisation C of the proton spectrum.
    hydrogen : DataArray, cm-3
        Density of hydrogen nuclei: samples of it, or its mean.
    emissivity : Emissivity, optional
        The spectrum, the band and the gas; default: ``Emissivity()``.
    pairing : {"joint", "independent"}, optional
        As for `derive`.

    Returns
    -------
    DataArray, cm-3 s-1, lazy
    """
    used = emissivity or emission.Emissivity()
    per_product = used.source_coefficient * u.cm**3 / u.s
    result = derive(
        "k * c * n",
        {"k": per_product, "c": c, "n": hydrogen},
        units="cm-3 s-1",
        name="source_density",
        long_name=f"hadronic source density of gamma rays, {used.e_min_gev:.3g}-{used.e_max_gev:.3g} GeV",
        pairing=pairing,
    )
    result.attrs["emissivity"] = used.to_dict()
    return result


def cosmic_ray_pressure(
    c: xr.DataArray, p_min_gev: float = 1.0, alpha: float = emission.ALPHA, *, p_max_gev: float = np.inf
) -> xr.DataArray:
    """Pressure of protons with the spectrum C p^-alpha between two momenta, lazily.

    Parameters
    ----------
    c : DataArray, cm-3
        Normalisation C of the proton spectrum.
    p_min_gev, p_max_gev : float, GeV / c
        Momenta to integrate between. The power law is measured above some GeV: a lower limit below extrapolates it.
    alpha : float
        Slope of the spectrum, above 2 if there is no upper limit.

    Returns
    -------
    DataArray, eV cm-3, lazy
        P = (1/3) C m_p c2 times the integral of p^(2 - alpha) / sqrt(1 + p^2) dp over p in units of m_p c
        (Enßlin et al. 2007, A&A 473, 41, section 2).

    Raises
    ------
    RecipeError
        If the limits are not in order or the integral has no end.
    """
    from scipy import integrate

    if not 0 < p_min_gev < p_max_gev:
        raise RecipeError(f"p_min_gev must be positive and below p_max_gev, got {p_min_gev:g} and {p_max_gev:g} GeV")
    if not (alpha > 2 or np.isfinite(p_max_gev)):
        raise RecipeError(f"the pressure of a spectrum with slope {alpha:g} <= 2 has no end; give p_max_gev")

    def integrand(ln_p: float) -> float:
        p = np.exp(ln_p)
        return float(p ** (3.0 - alpha) / np.sqrt(1.0 + p * p))

    low, high = p_min_gev / PROTON_GEV, p_max_gev / PROTON_GEV
    number = 0.0
    if np.isinf(high):
        # beyond, protons move at the speed of light to 5e-13, and the integral is that of a power law
        high = max(low, 1e6)
        number = high ** (2.0 - alpha) / (alpha - 2.0)
    number += integrate.quad(integrand, np.log(low), np.log(high), epsabs=0.0, epsrel=1e-10, limit=200)[0]
    per_c = PROTON_GEV * 1e9 / 3.0 * number * u.eV
    return derive(
        "c * e",
        {"c": c, "e": per_c},
        units="eV cm-3",
        name="pressure",
        long_name=f"pressure of cosmic-ray protons from {p_min_gev:g} to {p_max_gev:g} GeV / c",
    )


def _check_grids(expression: str, arrays: Mapping[str, xr.DataArray]) -> None:
    native = {key: array for key, array in arrays.items() if {"pixel", "shell"} <= set(array.dims)}
    grids = {key: spherical_grid_of(array) for key, array in native.items()}
    for key, grid in grids.items():
        first = next(iter(grids))
        if grid != grids[first]:
            raise GridError(
                f"expression {expression!r}: {first} (nside {grids[first].nside}, {grids[first].n_shell} shells) and "
                f"{key} (nside {grid.nside}, {grid.n_shell} shells) are on different grids; take one at the cells of "
                "the other first: field.crdist.on_grid_of(other), or field.crdist.at_cells_of(other)"
            )
    for dim in ("x", "y", "z"):
        places = {key: array[dim].values for key, array in arrays.items() if dim in array.dims}
        for key, place in places.items():
            first = next(iter(places))
            if not np.array_equal(place, places[first]):
                raise GridError(f"expression {expression!r}: {first} and {key} have different {dim}; use one grid")
    frames = {key: dict(array.attrs["frame"]) for key, array in arrays.items() if "frame" in array.attrs}
    for key, frame in frames.items():
        first = next(iter(frames))
        if frame != frames[first]:
            raise GridError(f"expression {expression!r}: {first} and {key} are in different frames; use one frame")


def _paired(expression: str, arrays: Mapping[str, xr.DataArray], pairing: Pairing | None) -> dict[str, xr.DataArray]:
    """The arrays with the samples that go together."""
    if pairing not in (None, "joint", "independent"):
        raise RecipeError(f"pairing must be 'joint' or 'independent', got {pairing!r}")
    sampled = {key: array for key, array in arrays.items() if "sample" in array.dims}
    stores = {
        key: array["sample"].attrs.get("store") if "sample" in array.coords else None for key, array in sampled.items()
    }
    sizes = {key: array.sizes["sample"] for key, array in sampled.items()}
    if len(set(stores.values())) > 1 and pairing is None:
        places = {key: sampled[key]["sample"].attrs.get("path", "no store") for key in stores}
        listed = " and ".join(f"{key} (of {place})" for key, place in places.items())
        raise SchemaError(
            f"expression {expression!r}: samples of different stores meet, {listed}; say pairing='joint' if samples of "
            "the same index are one draw of both, pairing='independent' if the stores know nothing of each other"
        )
    least = min(sizes.values(), default=0)
    if len(set(sizes.values())) > 1:
        if pairing != "independent":
            listed = ", ".join(f"{key}: {size}" for key, size in sizes.items())
            raise SchemaError(f"expression {expression!r}: numbers of samples differ ({listed})")
        sampled = {key: array.isel(sample=slice(least)) for key, array in sampled.items()}
    if len(set(stores.values())) > 1:
        # samples pair by place; xarray would pair them by label
        sampled = {key: array.assign_coords(sample=np.arange(least)) for key, array in sampled.items()}
    return {**arrays, **sampled}


def _value(key: str, given: Any) -> Value:
    if isinstance(given, xr.DataArray):
        # a product of small densities is beyond single precision
        return given.astype(np.float64), parse_unit(units_of(given))
    if isinstance(given, u.Quantity):
        if not given.isscalar:
            raise RecipeError(f"{key} must be a number or an array of xarray, got a Quantity of shape {given.shape}")
        return float(given.value), given.unit
    if isinstance(given, int | float | np.number):
        return float(given), u.dimensionless_unscaled
    raise RecipeError(f"{key} must be an array of xarray, a Quantity or a number, got {type(given).__name__}")


def _evaluate(node: ast.AST, values: Mapping[str, Value], text: str) -> Value:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number), u.dimensionless_unscaled
        case ast.Name(id=name):
            if name not in values:
                raise RecipeError(f"expression {text!r}: {name!r} has no meaning; it knows {', '.join(sorted(values))}")
            return values[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            data, unit = _evaluate(operand, values, text)
            return (-data if isinstance(sign, ast.USub) else data), unit
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            data, unit = _evaluate(left, values, text)
            exponent, of_exponent = _evaluate(right, values, text)
            if isinstance(exponent, xr.DataArray) or of_exponent != u.dimensionless_unscaled:
                raise RecipeError(f"expression {text!r}: an exponent must be a number")
            return data**exponent, unit**exponent
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SCALING:
            (one, unit), (other, other_unit) = (_evaluate(side, values, text) for side in (left, right))
            apply = SCALING[type(op)]
            return apply(one, other), apply(unit, other_unit)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SAME_UNIT:
            (one, unit), (other, other_unit) = (_evaluate(side, values, text) for side in (left, right))
            factor = _factor(other_unit, unit, text)
            return SAME_UNIT[type(op)](one, other * factor if factor != 1.0 else other), unit
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument], keywords=[]):
            data, unit = _evaluate(argument, values, text)
            return data**0.5, unit**0.5
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            data, unit = _evaluate(argument, values, text)
            factor = _factor(unit, u.dimensionless_unscaled, text)
            return FUNCTIONS[name](data * factor), u.dimensionless_unscaled
    what = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
    raise RecipeError(
        f"expression {text!r}: {what!r} cannot be used; it may hold names, numbers, + - * / **, parentheses, sqrt, "
        f"{', '.join(FUNCTIONS)}"
    )


def _factor(unit: Any, wanted: Any, text: str) -> float:
    try:
        return float(u.Unit(unit).to(wanted))
    except u.UnitConversionError as error:
        raise RecipeError(f"expression {text!r}: units do not fit: {error}") from error
