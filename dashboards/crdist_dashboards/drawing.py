"""Parts of a figure: the sky in Mollweide projection, legible marks, edges of an axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crdist_dashboards.celestial import SkyPlane
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
    sky = np.full(12 * 4**level + 1, np.nan)
    sky[np.asarray(cell_ids, dtype=np.int64)] = values
    # outside the sky the cell is -1, the last one
    pixels, _ = SkyPlane().raster(n_row, level, scheme)
    raster: npt.NDArray[np.float64] = sky[pixels]
    return raster


def draw_mollweide(axes: Axes, raster: npt.NDArray[Any], **style: Any) -> Any:
    """Draw a Mollweide raster with its outline, a graticule and the labels of l and b; return the image."""
    from matplotlib.patches import Ellipse

    image = axes.imshow(raster, origin="lower", extent=(-2.0, 2.0, -1.0, 1.0), interpolation="nearest", **style)
    outline = Ellipse((0.0, 0.0), 4.0, 2.0, facecolor=GREY, edgecolor="0.25", linewidth=0.9, zorder=-1)
    axes.add_patch(outline)
    image.set_clip_path(outline)
    axes.add_patch(Ellipse((0.0, 0.0), 4.0, 2.0, facecolor="none", edgecolor="0.25", linewidth=0.9, zorder=3))
    graticule, labels = SkyPlane().graticule()
    for line in graticule:
        axes.plot(line.x, line.y, color="white", linewidth=0.5, alpha=0.55, zorder=2)
    for u, v, label in labels:
        if math.hypot(u / 2.0, v) > 0.99:
            axes.text(u - 0.04, v, label, fontsize=7, color="0.25", ha="right", va="bottom" if v > 0 else "top")
        else:
            text = axes.text(u, v, label, color="white", fontsize=7, ha="center", va="top")
            text.set_path_effects(outlined())
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
