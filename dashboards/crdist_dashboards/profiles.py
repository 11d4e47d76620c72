"""Profiles with their uncertainty: mean, bands, every sample and the fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from crdist.frames import Frame
from crdist_dashboards.drawing import MINUS, limits
from crdist_dashboards.scales import LOG_SPAN, MAX_DECADES, power_of_ten, unicode_units

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["draw_profile"]

SAMPLE_COLOUR, BAND_COLOUR, FIT_COLOUR = "#4c72b0", "#1f3b73", "#d1495b"


def draw_profile(axes: Axes, dataset: xr.Dataset, *, label: str, n_sample: int, frame: Frame) -> None:
    r"""Draw a radial or vertical profile: its mean, 68 and 95 % bands, every sample and the fit.

    Parameters
    ----------
    axes : Axes
    dataset : Dataset
        ``mean`` along ``radius`` or ``z`` [kpc]; ``per_sample`` gives the bands, or else ``std``;
        ``fit_n0`` and ``fit_height`` [kpc] give the fit n0 (1 - \|z\| / H).
    label : str
        Name of the quantity.
    n_sample : int
    frame : Frame
        Tells where the Sun is.
    """
    dim = "radius" if "radius" in dataset["mean"].dims else "z"
    place = np.asarray(dataset[dim].values, dtype=np.float64)
    values, from_samples = _samples_of(dataset, dim)
    units = str(dataset["mean"].attrs.get("units", ""))
    shown = values[np.isfinite(values)]
    # a straight line is fitted to a vertical profile, and on a logarithmic scale it would not look like one
    is_log = dim == "radius" and shown.min() > 0 and shown.max() > LOG_SPAN * shown.min()
    power = 0 if is_log else power_of_ten(float(np.abs(shown).max()))
    values, shown = values / 10.0**power, shown / 10.0**power
    if from_samples:
        bands = np.nanpercentile(values, (2.5, 16.0, 84.0, 97.5), axis=1)
        names = ("95 % of the samples", "68 % of the samples")
        axes.plot(place, values, color=SAMPLE_COLOUR, linewidth=0.6, alpha=0.55, zorder=2.2)
        axes.plot([], [], color=SAMPLE_COLOUR, linewidth=0.8, alpha=0.7, label=f"each of {values.shape[1]} samples")
    else:
        bands = values.T
        names = ("mean ± 2 std", "mean ± std")
    mean = np.asarray(dataset["mean"].values, dtype=np.float64) / 10.0**power
    axes.fill_between(place, bands[0], bands[3], color=SAMPLE_COLOUR, alpha=0.16, linewidth=0, label=names[0])
    axes.fill_between(place, bands[1], bands[2], color=SAMPLE_COLOUR, alpha=0.34, linewidth=0, label=names[1])
    axes.plot(place, mean, color=BAND_COLOUR, linewidth=2.0, label=f"mean of {n_sample} samples", zorder=3)
    if dim == "radius":
        axes.axvline(frame.r0_kpc, color="0.35", linewidth=0.9, linestyle=(0, (4, 3)), label="Sun (R₀)")
        edges = np.asarray(dataset["radius_edges"].values) if "radius_edges" in dataset.variables else place
        axes.set_xlim(min(float(edges.min()), float(place.min())), max(float(edges.max()), float(place.max())))
    else:
        _draw_vertical_fit(axes, dataset, place, power)
        axes.set_xlim(*limits(dataset[dim]))
    if is_log:
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(shown.min() / 1.3, shown.max() / 10.0**MAX_DECADES))
    elif shown.min() >= 0:
        axes.set_ylim(bottom=0)
    unit = unicode_units(units, power)
    axes.set_xlabel("Galactocentric radius R [kpc]" if dim == "radius" else "height z [kpc]", fontsize=9.5)
    axes.set_ylabel(label + (f" [{unit}]" if unit else ""), fontsize=9.5)
    axes.tick_params(labelsize=8.5)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8.5, frameon=False, loc="best")


def _draw_vertical_fit(axes: Axes, dataset: xr.Dataset, z: npt.NDArray[np.float64], power: int) -> None:
    if "fit_n0" not in dataset or "fit_height" not in dataset:
        return
    n0 = np.asarray(dataset["fit_n0"].values, dtype=np.float64) / 10.0**power
    height = np.asarray(dataset["fit_height"].values, dtype=np.float64)
    usable = np.isfinite(n0) & np.isfinite(height) & (height > 0)
    if not usable.any():
        return
    n0, height = n0[usable], height[usable]
    fine = np.linspace(z.min(), z.max(), 401)
    lines = n0 * np.maximum(1.0 - np.abs(fine[:, None]) / height, 0.0)
    scatter = f" ± {height.std(ddof=1):.2g}" if height.size > 1 else ""
    label = f"fit n₀ (1 {MINUS} |z| / H), H = {height.mean():.3g}{scatter} kpc"
    axes.plot(
        fine,
        lines.mean(axis=1),
        color=FIT_COLOUR,
        linewidth=1.5,
        linestyle=(0, (5, 2)),
        label=label,
        zorder=4,
    )


def _samples_of(dataset: xr.Dataset, dim: str) -> tuple[npt.NDArray[np.float64], bool]:
    """All samples (place, sample), or mean -2, -1, +1, +2 std where the store keeps no samples."""
    if "per_sample" in dataset:
        return np.asarray(dataset["per_sample"].transpose(dim, "sample").values, dtype=np.float64), True
    mean = np.asarray(dataset["mean"].values, dtype=np.float64)
    std = np.asarray(dataset["std"].values, dtype=np.float64) if "std" in dataset else np.zeros_like(mean)
    return np.stack([mean - 2 * std, mean - std, mean + std, mean + 2 * std], axis=1), False
