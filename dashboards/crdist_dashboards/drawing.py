"""Parts of a figure: the sky in Mollweide projection, legible marks, edges of an axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crdist_dashboards.scales import GREY

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = [
    "draw_mollweide",
    "limits",
    "mollweide_raster",
    "outlined",
]

MINUS = "\N{MINUS SIGN}"


def outlined(width: float = 2.2, colour: str = "black") -> list[Any]:
    """Path effects that keep a mark or a text legible on any colour."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=width, foreground=colour, alpha=0.65)]


def mollweide_raster(
    values: npt.NDArray[Any], cell_ids: npt.NDArray[Any], level: int, scheme: str, n_row: int
) -> npt.NDArray[np.float64]:
    """A HEALPix map on a raster in Mollweide projection, l = 0 in the middle, l increasing to the left.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Values of the cells.
    cell_ids : ndarray of int, shape (n,)
        Their HEALPix numbers; cells that are not named are masked.
    level : int
        HEALPix level.
    scheme : str
        "nested" or "ring".
    n_row : int
        Height of the raster; it is twice as wide.

    Returns
    -------
    ndarray, shape (n_row, 2 n_row)
        Row 0 is the south; NaN outside the sky and where there is no value.
    """
    import healpy

    nside = 2**level
    sky = np.full(12 * nside**2, np.nan)
    sky[np.asarray(cell_ids, dtype=np.int64)] = values
    v = (np.arange(n_row) + 0.5) / n_row * 2.0 - 1.0
    u = (np.arange(2 * n_row) + 0.5) / n_row * 2.0 - 2.0
    theta = np.arcsin(v)[:, None]
    latitude = np.arcsin((2.0 * theta + np.sin(2.0 * theta)) / math.pi)
    longitude = -math.pi * u / (2.0 * np.cos(theta))
    inside = np.abs(longitude) <= math.pi
    raster = np.full(inside.shape, np.nan)
    colatitude = np.broadcast_to(math.pi / 2.0 - latitude, inside.shape)[inside]
    raster[inside] = sky[healpy.ang2pix(nside, colatitude, longitude[inside], nest=scheme == "nested")]
    return raster


def draw_mollweide(axes: Axes, raster: npt.NDArray[Any], **style: Any) -> Any:
    """Draw a Mollweide raster with its outline, a graticule and the labels of l and b; return the image."""
    from matplotlib.patches import Ellipse

    image = axes.imshow(raster, origin="lower", extent=(-2.0, 2.0, -1.0, 1.0), interpolation="nearest", **style)
    outline = Ellipse((0.0, 0.0), 4.0, 2.0, facecolor=GREY, edgecolor="0.25", linewidth=0.9, zorder=-1)
    axes.add_patch(outline)
    image.set_clip_path(outline)
    axes.add_patch(Ellipse((0.0, 0.0), 4.0, 2.0, facecolor="none", edgecolor="0.25", linewidth=0.9, zorder=3))
    line: dict[str, Any] = {"color": "white", "linewidth": 0.5, "alpha": 0.55, "zorder": 2}
    arc = np.radians(np.linspace(-90.0, 90.0, 181))
    for longitude in range(-120, 121, 60):
        axes.plot(*_mollweide(np.full(arc.shape, math.radians(longitude)), arc), **line)
        if longitude:
            (u,), (v,) = _mollweide(np.array([math.radians(longitude)]), np.zeros(1))
            label = axes.text(u, v - 0.02, f"{longitude % 360}°", color="white", fontsize=7, ha="center", va="top")
            label.set_path_effects(outlined())
    for latitude in (-60, -30, 0, 30, 60):
        u, v = _mollweide(2.0 * arc, np.full(arc.shape, math.radians(latitude)))
        axes.plot(u, v, **line)
        if latitude:
            side: dict[str, Any] = {"ha": "right", "va": "bottom" if latitude > 0 else "top"}
            axes.text(u.min() - 0.04, v[0], f"{latitude:+d}°".replace("-", MINUS), fontsize=7, color="0.25", **side)
    axes.text(-2.04, 0.0, "l = 180°", fontsize=7, color="0.25", ha="right", va="center")
    axes.text(0.0, 1.03, "b = +90°", fontsize=7, color="0.25", ha="center", va="bottom")
    axes.set(xlim=(-2.42, 2.02), ylim=(-1.02, 1.15), aspect="equal")
    axes.set_axis_off()
    return image


def limits(coordinate: xr.DataArray) -> tuple[float, float]:
    """Outer edges of evenly spaced voxels, in the unit of their centres."""
    centres = np.asarray(coordinate.values, dtype=np.float64)
    half = (centres[-1] - centres[0]) / (2 * (centres.size - 1)) if centres.size > 1 else 0.5
    return float(centres[0] - half), float(centres[-1] + half)


def _mollweide(
    longitude: npt.NDArray[np.float64], latitude: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    theta = latitude.copy()
    # Newton's method for 2 theta + sin 2 theta = pi sin b; at the poles theta = b and the slope vanishes.
    for _ in range(60):
        slope = 2.0 + 2.0 * np.cos(2.0 * theta)
        error = 2.0 * theta + np.sin(2.0 * theta) - math.pi * np.sin(latitude)
        theta = theta - np.divide(error, slope, out=np.zeros_like(error), where=slope > 1e-9)
    return -2.0 / math.pi * longitude * np.cos(theta), np.sin(theta)
