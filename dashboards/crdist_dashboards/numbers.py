"""The numbers of a products store that a reader asks for first: near the Sun, scale height, masses, residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crdist.frames import Frame

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Number", "numbers_of"]

SHARE_WITHOUT = 0.25
"""Where more of the samples have no scale height, those that have one are no fair choice."""


@dataclass(frozen=True, slots=True)
class Number:
    """One number with its standard deviation over samples."""

    what: str
    value: float
    """Mean over samples; NaN where they do not determine it."""
    std: float
    """NaN where there is none."""
    units: str
    """As stored; empty if it has none."""
    note: str = ""
    """What a reader must know beside it."""

    @property
    def text(self) -> str:
        """Value and standard deviation as people write them, without the unit.

        Examples
        --------
        >>> Number("scale height", 4.1234, 0.0567, "kpc").text
        '4.123 ± 0.057'
        >>> Number("density", 5.1e-14, 3.2e-15, "GeV-1 cm-3").text
        '(5.10 ± 0.32) × 10⁻¹⁴'
        >>> Number("mass residual", 0.0021, np.nan, "").text
        '0.0021'
        """
        from crdist_dashboards.scales import power_of_ten, unicode_units

        if not np.isfinite(self.value):
            return "not determined"
        if not np.isfinite(self.std) or self.std <= 0:
            return f"{self.value:.3g}"
        power = power_of_ten(abs(self.value))
        value, std = self.value / 10.0**power, self.std / 10.0**power
        # two digits of the standard deviation, and the value to the same place
        places = max(0, 1 - int(np.floor(np.log10(std))))
        text = f"{value:.{places}f} ± {std:.{places}f}"
        return f"({text}) × {unicode_units('', power)}" if power else text


def numbers_of(tree: xr.DataTree) -> tuple[Number, ...]:
    """The numbers of a products store, as far as its products give them; per sample first, then over samples.

    Parameters
    ----------
    tree : DataTree
        Of `crdist.open_products`.
    """
    frame = Frame.from_dict(dict(tree.attrs["frame"]))
    name = str(tree.attrs["quantity"].get("long_name") or tree.attrs["quantity"]["name"])
    products = [node.to_dataset() for node in tree.subtree if "kind" in node.attrs]

    def of_kind(kind: str) -> list[xr.Dataset]:
        return [product for product in products if product.attrs["kind"] == kind]

    found: list[Number] = []
    for product in of_kind("slice"):
        if product.attrs.get("axis") == "z":
            found += _at_the_sun(product, frame, name)
    for product in of_kind("radial"):
        found += _at_the_solar_circle(product, frame, name)
    for product in of_kind("vertical"):
        found += _height(product)
    return (*found, *_masses(of_kind("projection")))


def _over_samples(what: str, samples: npt.NDArray[Any], units: str, note: str = "") -> list[Number]:
    values = np.asarray(samples, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return []
    std = float(values.std(ddof=1)) if values.size > 1 else float("nan")
    return [Number(what, float(values.mean()), std, units, note)]


def _units(product: xr.Dataset, name: str) -> str:
    return str(product[name].attrs.get("units", ""))


def _at_the_sun(product: xr.Dataset, frame: Frame, name: str) -> list[Number]:
    x, y, z = frame.sun_kpc
    at = float(product.attrs.get("at_kpc", 0.0))
    axes = [np.asarray(product[axis].values, dtype=np.float64) for axis in "xy"]
    half = max((a[-1] - a[0]) / max(a.size - 1, 1) for a in axes) / 2
    if (
        any(not a[0] - half <= place <= a[-1] + half for a, place in zip(axes, (x, y), strict=True))
        or abs(at - z) > half
    ):
        return []
    here = product.sel(x=x, y=y, method="nearest")
    what = f"{name}, at the Sun"
    if "per_sample" in here:
        return _over_samples(what, here["per_sample"].values, _units(product, "per_sample"))
    mean, std = float(here["mean"]), float(here["std"])
    return [Number(what, mean, std, _units(product, "mean"))] if np.isfinite(mean) else []


def _at_the_solar_circle(product: xr.Dataset, frame: Frame, name: str) -> list[Number]:
    if "radius_edges" not in product.variables:
        return []
    edges = np.asarray(product["radius_edges"].values, dtype=np.float64)
    i = int(np.searchsorted(edges, frame.r0_kpc)) - 1
    if not 0 <= i < edges.size - 1:
        return []
    cut = product.attrs.get("z_cut_kpc")
    what = f"{name}, mean over the ring of {edges[i]:g} to {edges[i + 1]:g} kpc"
    note = f"within {cut:g} kpc of the plane" if cut is not None else ""
    here = product.isel(radius=i)
    if "per_sample" in here:
        return _over_samples(what, here["per_sample"].values, _units(product, "per_sample"), note)
    return [Number(what, float(here["mean"]), float(here["std"]), _units(product, "mean"), note)]


def _height(product: xr.Dataset) -> list[Number]:
    if "fit_height" not in product:
        return []
    ring = product.attrs.get("ring_kpc")
    where = f" at {ring[0]:g} to {ring[1]:g} kpc" if ring else ""
    note = "fit of n₀ (1 - |z| / H) in each sample"
    what, units = f"scale height H{where}", _units(product, "fit_height") or "kpc"
    height = np.asarray(product["fit_height"].values, dtype=np.float64)
    without = int(np.sum(~np.isfinite(height)))
    if without:
        note += f"; {without} of {height.size} samples do not fall with height"
    if without > SHARE_WITHOUT * height.size:
        return [Number(what, float("nan"), float("nan"), units, note)]
    return _over_samples(what, height, units, note)


def _masses(projections: list[xr.Dataset]) -> list[Number]:
    """The mass of each box and the worst residual of its projections, which are along several axes."""
    boxes: dict[str, list[xr.Dataset]] = {}
    for product in projections:
        if "total_native" in product and "box" in product.attrs:
            limits = (f"{axis} {lower:g} to {upper:g}" for axis, (lower, upper) in product.attrs["box"].items())
            boxes.setdefault(f"{', '.join(limits)} kpc", []).append(product)
    found: list[Number] = []
    for box, products in boxes.items():
        first = products[0]
        what = f"volume integral over {box}"
        found += _over_samples(
            what, first["total_native"].values, _units(first, "total_native"), "on the source's own cells"
        )
        residual = np.concatenate([np.ravel(product["mass_residual"].values) for product in products])
        residual = residual[np.isfinite(residual)]
        if residual.size:
            worst = float(residual[np.argmax(np.abs(residual))])
            note = "of the regrid, in the worst sample; 0 is perfect"
            found.append(Number(f"mass residual over {box}", worst, float("nan"), "", note))
    return found
