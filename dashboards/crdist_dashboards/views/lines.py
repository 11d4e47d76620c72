"""Values along the lines through a point of a map, and at the point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist_dashboards.products import GridAxis, ProductsSource
from crdist_dashboards.records import AxisLabel, Band, Line, ProfileView
from crdist_dashboards.scales import LOG_SPAN, MAX_DECADES, power_of_ten, unicode_units
from crdist_dashboards.views.planes import Cut, cut_of, plane_values, voxels

__all__ = ["Readout", "crosshair", "value_at"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Readout:
    """The stored values of the voxel at a point."""

    product: str
    kind: str
    coordinates: tuple[tuple[str, float, str], ...]
    """Name, centre of the voxel and unit; a projection has no place on its own axis."""
    quantity: str
    mean: float
    std: float
    significance: float
    units: str
    n_sample: int

    @property
    def text(self) -> str:
        """All of it on one line.

        Examples
        --------
        >>> at = (("x", 8.1, "kpc"), ("y", 0.1, "kpc"))
        >>> Readout("midplane", "slice", at, "density", 2.5e-10, 5e-11, 5.0, "cm-3", 12).text
        'x = 8.1 kpc, y = 0.1 kpc: 2.5e-10 ± 5e-11 cm⁻³ (mean / std = 5, 12 samples)'
        """
        place = ", ".join(f"{name} = {value:.6g} {units}" for name, value, units in self.coordinates)
        place = place.replace("-", "\N{MINUS SIGN}")
        if not np.isfinite(self.mean):
            return f"{place}: no value"
        spread = f" ± {self.std:.4g}" if np.isfinite(self.std) else ""
        unit = f" {unicode_units(self.units)}" if self.units else ""
        ratio = f"mean / std = {self.significance:.3g}, " if np.isfinite(self.significance) else ""
        return f"{place}: {self.mean:.6g}{spread}{unit} ({ratio}{self.n_sample} samples)"


def value_at(
    source: ProductsSource,
    product: str,
    x: float,
    y: float,
    *,
    axis: str | None = None,
    at_kpc: float | None = None,
) -> Readout | None:
    """The stored values of the voxel at a point of a map.

    Parameters
    ----------
    source : ProductsSource
    product : str
        Of kind slice, projection or volume.
    x, y : float, kpc
        The point, across and up.
    axis, at_kpc : str, float, optional
        The plane of a volume, as in `slice_view`.

    Returns
    -------
    Readout or None
        None outside the map.

    Raises
    ------
    SchemaError
        If the product is no map, or cannot be read.
    """
    cut = cut_of(source, source.info(product), axis, at_kpc)
    i, j = cut.across.index(x), cut.up.index(y)
    if i is None or j is None:
        return None
    place = np.array([i]), np.array([j])
    found = {
        name: float(plane_values(source, cut, name, None, *place)[0, 0]) if name in cut.info.statistics else np.nan
        for name in ("mean", "std", "significance")
    }
    coordinates = [(item.name, _centre(item, k), item.units) for item, k in ((cut.across, i), (cut.up, j))]
    if cut.at_kpc is not None:
        coordinates.append((cut.axis, cut.at_kpc, cut.across.units))
    return Readout(
        product=product,
        kind=cut.info.kind,
        coordinates=tuple(sorted(coordinates)),
        quantity=source.quantity.long_name,
        units=cut.info.units,
        n_sample=cut.info.n_sample,
        **found,
    )


def crosshair(
    source: ProductsSource,
    product: str,
    x: float,
    y: float,
    *,
    axis: str | None = None,
    at_kpc: float | None = None,
) -> tuple[ProfileView, ProfileView]:
    """Profiles along the two lines through a point of a map: across and up.

    Parameters
    ----------
    source, product, x, y, axis, at_kpc
        As for `value_at`; a point outside the map is moved to its edge.

    Returns
    -------
    tuple of two ProfileView
        With every sample and their 68 and 95 % bands if the product keeps samples, else with mean ± std.

    Raises
    ------
    SchemaError
        If the product is no map, or cannot be read.
    """
    cut = cut_of(source, source.info(product), axis, at_kpc)
    i, j = (_nearest(item, place) for item, place in ((cut.across, x), (cut.up, y)))
    return _profile(source, cut, cut.across, i, j), _profile(source, cut, cut.up, i, j)


def _profile(source: ProductsSource, cut: Cut, along: GridAxis, i: int, j: int) -> ProfileView:
    """The line of voxels along one axis of a plane through the voxel (i, j)."""
    info, is_across = cut.info, along is cut.across
    numbers = (np.arange(along.n), np.array([j])) if is_across else (np.array([i]), np.arange(along.n))

    def line(statistic: str) -> Array:
        return np.asarray(plane_values(source, cut, statistic, None, *numbers), dtype=np.float64).reshape(-1)

    mean = line("mean")
    if info.has_samples:
        # the sample is the last dimension of every product
        kept = voxels(source, cut, "per_sample", *((slice(None), j) if is_across else (i, slice(None))))
        samples = np.asarray(kept, dtype=np.float64)
        edges = np.percentile(samples, (2.5, 16.0, 84.0, 97.5), axis=1)
        names = "95 % of the samples", "68 % of the samples"
    else:
        samples = np.empty((mean.size, 0))
        std = line("std") if "std" in info.statistics else np.zeros_like(mean)
        edges = mean + np.array([[-2.0], [-1.0], [1.0], [2.0]]) * std
        names = "mean ± 2 std", "mean ± std"
    other, number = (cut.up, j) if is_across else (cut.across, i)
    across_it = f"{cut.axis} = {cut.at_kpc:g} kpc" if cut.at_kpc is not None else f"integrated along {cut.axis}"
    title = f"Along {along.name} at {other.name} = {_centre(other, number):g} kpc, {across_it}"
    limits, kind = _limits(np.concatenate([mean[:, None], samples], axis=1), edges)
    here = _centre(along, i if is_across else j)
    return ProfileView(
        title=title.replace("-", "\N{MINUS SIGN}"),
        statistic=f"mean of {info.n_sample} samples",
        quantity=source.quantity.long_name,
        across=AxisLabel(along.name, along.name, along.units),
        up=AxisLabel("value", source.quantity.long_name, info.units),
        x=along.centres,
        mean=mean,
        samples=samples,
        bands=(Band(edges[0], edges[3], names[0]), Band(edges[1], edges[2], names[1])),
        lines=(Line("place", np.array([here, here]), np.array(limits), ""),),
        x_limits=(along.lower, along.upper),
        y_limits=limits,
        up_kind=kind,
        power=0 if kind == "log" else power_of_ten(max(map(abs, limits))),
    )


def _limits(values: Array, bands: Array) -> tuple[tuple[float, float], Literal["linear", "log"]]:
    """Limits that hold every curve and band, logarithmic where positive values span decades.

    A quantity that is nowhere negative starts at 0, even where a symmetric band reaches below.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return (0.0, 1.0), "linear"
    low, high = float(finite.min()), float(max(finite.max(), np.nanmax(bands)))
    if low > 0 and high > LOG_SPAN * low:
        return (max(low / 1.3, high / 10.0**MAX_DECADES), high * 1.3), "log"
    bottom = 0.0 if low >= 0 else float(min(low, np.nanmin(bands)))
    margin = 0.05 * (high - bottom) or 0.05 * abs(high) or 0.05
    return (0.0 if low >= 0 else bottom - margin, high + margin), "linear"


def _nearest(axis: GridAxis, place: float) -> int:
    inside = axis.index(min(max(place, axis.lower), axis.upper))
    if inside is None:
        raise SchemaError(f"a point of a map has coordinates in kpc, got {axis.name} = {place}")
    return inside


def _centre(axis: GridAxis, index: int) -> float:
    # rounded: the centre of a voxel is a short number that rounding errors make long
    return round(axis.lower + (index + 0.5) * axis.step, 9) + 0.0
