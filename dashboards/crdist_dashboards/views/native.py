"""Slices of a posterior on its own grid: each point shows the cell that it lies in, nothing is interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import CrdistError, SchemaError
from crdist.schema import INFERENCE_VARIABLES, Derived
from crdist_dashboards.overlays import ALL, marks_and_curves
from crdist_dashboards.records import AxisLabel, MapView
from crdist_dashboards.scales import COLOUR_MAPS, ColourScale, ScaleKind, colour_scale, symmetric_scale
from crdist_dashboards.views.inference import InferenceSource

__all__ = ["NativeStatistic", "native_slice"]

NativeStatistic = Literal["mean", "std", "significance", "truth", "difference", "gas"]

HALF_WIDTH_KPC = 20.0
N_PIXEL = 400

MINUS = "\N{MINUS SIGN}"
COLOURS = {
    "mean": COLOUR_MAPS["mean"],
    "truth": COLOUR_MAPS["mean"],
    "std": COLOUR_MAPS["std"],
    "significance": COLOUR_MAPS["significance"],
    "difference": COLOUR_MAPS["residual"],
    "gas": COLOUR_MAPS["gas"],
}
MIN_SAMPLES = {"mean": 1, "std": 2, "significance": 2, "difference": 2}


def native_slice(
    source: InferenceSource,
    statistic: NativeStatistic = "mean",
    *,
    quantity: str | None = None,
    half_width_kpc: float = HALF_WIDTH_KPC,
    n_pixel: int = N_PIXEL,
    scale: ScaleKind | ColourScale = "auto",
    overlays: Sequence[str] = ALL,
) -> MapView:
    """The mid-plane, z = 0 in the Galactocentric frame, of what an inference found or was given.

    Parameters
    ----------
    source : InferenceSource
    statistic : {"mean", "std", "significance", "truth", "difference", "gas"}
        ``difference`` is (mean - truth) / std. ``truth`` and ``difference`` need a synthetic sky.
    quantity : str, optional
        A stored variable, or one derived from a single one; default: the first derived, or else the main one.
    half_width_kpc : float, kpc
        Of the square about the Galactic centre.
    n_pixel : int
        Pixels along a side.
    scale : {"auto", "linear", "log"} or ColourScale
    overlays : sequence of str
        Of `crdist_dashboards.overlays.ALL`.

    Raises
    ------
    SchemaError
        If the store lacks what is asked for, or has too few samples yet.
    """
    import healpy

    header = source.header
    if statistic not in COLOURS:
        raise SchemaError(f"a native slice shows {', '.join(COLOURS)}, got {statistic!r}")
    if statistic in ("truth", "difference") and not source.is_synthetic:
        raise SchemaError(f"{source.path}: holds no truth; only an inference on a synthetic sky has one")
    if source.n_sample < MIN_SAMPLES.get(statistic, 0):
        raise SchemaError(
            f"{source.path}: {statistic} needs {MIN_SAMPLES[statistic]} samples, {source.n_sample} are there yet"
        )
    frame, grid = header.frame.galactocentric, header.grid
    centres = (np.arange(n_pixel) + 0.5) / n_pixel * 2.0 * half_width_kpc - half_width_kpc
    x, y = np.meshgrid(centres, centres)
    points = frame.to_heliocentric(np.stack([x, y, np.zeros_like(x)], axis=-1))
    distance = np.linalg.norm(points, axis=-1)
    shell = np.searchsorted(grid.edges, distance, side="right") - 1
    inside = (shell >= 0) & (shell < grid.n_shell)
    pixel = healpy.vec2pix(grid.nside, *points[inside].T, nest=grid.ordering == "nested")
    pixels, number = np.unique(pixel, return_inverse=True)
    values = np.full(x.shape, np.nan)
    chosen = _quantity(source, quantity)
    values[inside] = _values(source, statistic, pixels, chosen)[number, shell[inside]]
    if not np.isfinite(values).any():
        raise SchemaError(f"{source.path}: {statistic} has no finite value in the mid-plane")
    if not isinstance(scale, ColourScale):
        scale = symmetric_scale(values) if statistic == "difference" else colour_scale(values, scale)
    extent = (-half_width_kpc, half_width_kpc, -half_width_kpc, half_width_kpc)
    marks, curves = marks_and_curves(frame, "z", 0.0, extent, overlays)
    gas = INFERENCE_VARIABLES["hydrogen_density"]
    n = source.n_sample
    words = {
        "mean": f"mean of {n} samples",
        "std": f"standard deviation of {n} samples",
        "significance": f"mean / std of {n} samples",
        "truth": "truth",
        "difference": f"(mean {MINUS} truth) / std of {n} samples",
        "gas": "input",
    }
    return MapView(
        title="Slice z = 0 kpc",
        statistic=words[statistic],
        quantity=gas.long_name if statistic == "gas" else chosen.long_name,
        values=values.astype(np.float32),
        extent=extent,
        across=AxisLabel("x", "x", "kpc"),
        up=AxisLabel("y", "y", "kpc"),
        units=gas.units if statistic == "gas" else "" if statistic in ("significance", "difference") else chosen.units,
        colours=COLOURS[statistic],
        scale=scale,
        marks=marks,
        curves=curves,
        notes=("native grid, nothing interpolated",)
        + (() if source.status == "complete" else ("unfinished inference",)),
        frame=frame,
        axis="z",
        at_kpc=0.0,
    )


def _quantity(source: InferenceSource, quantity: str | None) -> Derived:
    """A multiple of one stored variable."""
    header = source.header
    single = [derived.name for derived in header.derived if len(derived.terms) == 1]
    chosen = header.resolve(quantity or (single[0] if single else "density"))
    if len(chosen.terms) != 1:
        raise SchemaError(f"{source.path}: {chosen.name} is a sum of several variables; take one of them")
    return chosen


def _values(
    source: InferenceSource, statistic: NativeStatistic, pixels: npt.NDArray[Any], chosen: Derived
) -> npt.NDArray[np.float64]:
    """Shape (pixels, shell)."""
    ((name, factor),) = chosen.terms
    if statistic == "gas":
        return np.asarray(source.read("hydrogen_density")[pixels], dtype=np.float64)
    if statistic == "truth":
        return np.asarray(source.read("truth")[pixels], dtype=np.float64) * factor
    samples = _samples(source, name, pixels) * factor
    mean = np.asarray(samples.mean(axis=-1), dtype=np.float64)
    if statistic == "mean":
        return mean
    std = np.asarray(samples.std(axis=-1, ddof=1), dtype=np.float64)
    if statistic == "std":
        return std
    above = mean - factor * source.read("truth")[pixels] if statistic == "difference" else mean
    ratio = np.full_like(mean, np.nan)
    np.divide(above, std, out=ratio, where=std > 0)
    return ratio


def _samples(source: InferenceSource, name: str, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Samples of some pixels, shape (pixels, shell, sample)."""
    try:
        array = zarr.open_array(str(source.path / name), mode="r")
        # one moment's samples, also while more are appended
        stored = array.oindex[pixels, slice(None), slice(0, source.n_sample)]
        return np.asarray(stored, dtype=np.float64)
    except CrdistError:
        raise
    except Exception as error:  # zarr and its codecs raise many kinds for a chunk that is damaged
        text = " ".join(str(error).split()) or type(error).__name__
        raise SchemaError(f"{source.path}: {name} cannot be read: {text[:160]}") from error
