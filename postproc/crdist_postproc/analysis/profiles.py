"""Profiles about the Galactic centre, lazily: the means of the products, sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist.errors import RecipeError
from crdist.frames import Frame
from crdist.grids import Axis
from crdist_postproc.analysis.columns import column_sums
from crdist_postproc.analysis.samples import long_name_of, units_of
from crdist_postproc.kernels.field import Inner, Method, ValueSpace
from crdist_postproc.products.base import Quantity
from crdist_postproc.products.profiles import RadialMean, VerticalMean, fit_linear_decline

__all__ = ["radial_profile", "vertical_fit", "vertical_profile"]

VOXEL_KPC = 0.1


def radial_profile(
    samples: xr.DataArray,
    frame: Frame,
    bins: tuple[float, float, float] = (0.0, 16.0, 1.0),
    *,
    z_cut: float = 0.3,
    voxel: float = VOXEL_KPC,
    method: Method = "linear",
    value_space: ValueSpace = "linear",
    inner: Inner = "extend",
) -> xr.DataArray:
    """Volume-weighted mean over rings about the Galactic centre, near the mid-plane.

    Parameters
    ----------
    samples : DataArray, dims (pixel, shell[, sample])
        A variable of ``crdist.open_posterior``, or anything computed from one that keeps its coordinates.
    frame : Frame
        Says where the Galactic centre lies.
    bins : tuple of float, kpc
        Galactocentric radii: start, stop and step.
    z_cut : float, kpc
        Height above and below the mid-plane that counts.
    voxel : float, kpc
        Largest distance between the points at which the field is taken.
    method, value_space, inner
        As for `crdist.regrid`.

    Returns
    -------
    DataArray of float64, dims (radius[, sample]), lazy
        Units as given. A bin that lies partly outside the data is the mean over what lies inside, one that lies wholly
        outside is NaN.

    Raises
    ------
    RecipeError
        If a bin or a length is impossible.
    """
    edges = _edges(bins)
    if edges[0] < 0 or not z_cut > 0 or not voxel > 0:
        raise RecipeError(
            f"a radial profile needs radii of 0 kpc or more, z_cut > 0 and voxel > 0, got bins {bins}, z_cut {z_cut:g} "
            f"and voxel {voxel:g} kpc"
        )
    product = RadialMean(
        **_common(samples, frame), radii_kpc=tuple(edges.tolist()), heights_kpc=(-z_cut, z_cut), voxel_kpc=(voxel,) * 3
    )
    text = f"{long_name_of(samples)}, volume-weighted mean over |z| < {z_cut:g} kpc"
    attrs = {"long_name": text, "z_cut_kpc": z_cut}
    return _profile(product, samples, "radius", edges, attrs, method, value_space, inner)


def vertical_profile(
    samples: xr.DataArray,
    frame: Frame,
    ring: tuple[float, float] = (8.0, 9.0),
    bins: tuple[float, float, float] = (-3.0, 3.0, 0.1),
    *,
    voxel: float = VOXEL_KPC,
    method: Method = "linear",
    value_space: ValueSpace = "linear",
    inner: Inner = "extend",
) -> xr.DataArray:
    """Volume-weighted mean at heights above the Galactic plane, in a ring about the centre.

    Parameters
    ----------
    samples, frame, voxel, method, value_space, inner
        As for `radial_profile`.
    ring : tuple of float, kpc
        Inner and outer Galactocentric radius.
    bins : tuple of float, kpc
        Heights: start, stop and step.

    Returns
    -------
    DataArray of float64, dims (z[, sample]), lazy
        As of `radial_profile`. `vertical_fit` fits its decline.

    Raises
    ------
    RecipeError
        If a bin or a length is impossible.
    """
    edges = _edges(bins)
    if not 0 <= ring[0] < ring[1] or not voxel > 0:
        raise RecipeError(
            f"a vertical profile needs a ring of two radii and voxel > 0, got ring {ring} and voxel {voxel:g} kpc"
        )
    product = VerticalMean(
        **_common(samples, frame), radii_kpc=ring, heights_kpc=tuple(edges.tolist()), voxel_kpc=(voxel,) * 3
    )
    text = f"{long_name_of(samples)}, volume-weighted mean over {ring[0]:g} < R < {ring[1]:g} kpc"
    attrs = {"long_name": text, "ring_kpc": list(ring)}
    return _profile(product, samples, "z", edges, attrs, method, value_space, inner)


def vertical_fit(profile: xr.DataArray, threshold: float = 0.1) -> xr.Dataset:
    """Fit n0 (1 - |z| / H) to each sample of a vertical profile; computes it.

    Parameters
    ----------
    profile : DataArray, dims (z, sample)
        Of `vertical_profile`.
    threshold : float
        The least share of the mid-plane value that is fitted, dimensionless.

    Returns
    -------
    Dataset
        ``n0`` and ``height`` [kpc], dims (sample,); NaN where a profile does not decline.
    """
    values = profile.transpose("z", "sample").values
    centre, spread = values.mean(axis=1), values.std(axis=1, ddof=1)
    n0, height = fit_linear_decline(profile["z"].values, values, spread, centre, threshold)
    fit = "fit n0 (1 - |z| / H) to each sample"
    return xr.Dataset(
        {
            "n0": ("sample", n0, {"units": units_of(profile), "long_name": f"{fit}: n0"}),
            "height": ("sample", height, {"units": "kpc", "long_name": f"{fit}: H"}),
        },
        coords={"sample": profile["sample"]},
    )


def _common(samples: xr.DataArray, frame: Frame) -> dict[str, Any]:
    quantity = Quantity(
        str(samples.name), units_of(samples), long_name_of(samples), int(samples.sizes.get("sample", 1))
    )
    return {"name": "profile", "quantity": quantity, "frame": frame}


def _edges(bins: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Edges of bins (start, stop, step), kpc."""
    if len(bins) != 3:
        raise RecipeError(f"bins are (start, stop, step) in kpc, got {len(bins)} numbers: {tuple(bins)}")
    return Axis.from_voxel(*bins, name="bins").edges


def _profile(
    product: RadialMean | VerticalMean,
    samples: xr.DataArray,
    dim: str,
    edges: npt.NDArray[np.float64],
    attrs: dict[str, Any],
    method: Method,
    value_space: ValueSpace,
    inner: Inner,
) -> xr.DataArray:
    import dask
    import dask.array as da

    parts = column_sums(product, samples, method=method, value_space=value_space, inner=inner)
    means = dask.delayed(_means, pure=True)(product, parts)
    n_bin, n_sample = edges.size - 1, product.quantity.n_sample
    values = da.from_delayed(means, (n_bin, n_sample), dtype=np.float64)
    what = "Galactocentric radius" if dim == "radius" else "height above the Galactic plane"
    coords: dict[str, Any] = {
        dim: (dim, 0.5 * (edges[1:] + edges[:-1]), {"units": "kpc", "long_name": what}),
        f"{dim}_lower": (dim, edges[:-1], {"units": "kpc", "long_name": f"{what}, lower edge of the bin"}),
        f"{dim}_upper": (dim, edges[1:], {"units": "kpc", "long_name": f"{what}, upper edge of the bin"}),
    }
    if "sample" in samples.coords:
        coords["sample"] = samples.coords["sample"]
    attributes = {"units": units_of(samples), **attrs, "frame": product.frame.galactocentric.to_dict()}
    whole = xr.DataArray(
        values,
        dims=(dim, "sample"),
        coords={name: value for name, value in coords.items() if name != "sample" or "sample" in samples.dims},
        name=samples.name,
        attrs=attributes,
    )
    return whole if "sample" in samples.dims else whole.isel(sample=0)


def _means(product: RadialMean | VerticalMean, parts: list[Any]) -> npt.NDArray[np.float64]:
    mean, _ = product.means(parts)
    # one of the two axes of bins has a single bin
    return np.asarray(mean[:, 0] if isinstance(product, RadialMean) else mean[0])
