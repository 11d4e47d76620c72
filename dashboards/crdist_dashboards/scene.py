"""A volume in three dimensions as one HTML page that asks for nothing else, drawn by K3D in the reader's browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist_dashboards.scales import COLOUR_MAPS, ColourScale, colour_scale, unicode_units

__all__ = ["MAX_VOXELS", "VolumeScene", "scene_html"]

MAX_VOXELS = 160
"""Voxels along one axis; a larger volume is averaged down to it, which also bounds the page's size."""

STRETCH = 0.3
"""A volume flatter than this (height / width) is drawn higher, and says so."""

OPACITY = ((0.0, 0.0), (0.12, 0.0), (0.5, 0.12), (0.8, 0.4), (1.0, 1.0))
"""Opacity over the colour scale: what is faint is seen through."""

BACKGROUND = 0x0D1017
"""Dark: what is faint lies near the dark end of the colours, and fades into it."""

FONT_FILES = r"/,url\(fonts\/[^)]*\)( format\(\"[a-z]+\"\))?/g"
"""JavaScript's pattern of them."""

DENSITY = 30.0
"""K3D's factor of opacity per length of the view."""


@dataclass(frozen=True, slots=True, eq=False)
class VolumeScene:
    """What is drawn."""

    values: npt.NDArray[np.float32]
    """Shape (x, y, z); NaN is left clear."""
    edges_kpc: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    """Outer edges along x, y and z."""
    frame: Frame
    label: str
    """Quantity and statistic, in words."""
    units: str


def scene_html(scene: VolumeScene) -> tuple[str, tuple[str, ...]]:
    """A page that shows a volume and can be turned with the mouse.

    Parameters
    ----------
    scene : VolumeScene

    Returns
    -------
    html : str
        One page without any request to elsewhere.
    notes : tuple of str
        What a reader must know beside it: averaging, a stretched axis, the scale of the colours.

    Raises
    ------
    SchemaError
        If no voxel has a finite value.
    """
    import k3d
    from matplotlib import colormaps

    values, notes = _thinned(scene.values)
    scale = colour_scale(values)
    height, flatter = _stretch(scene)
    if flatter:
        notes.append(f"z is drawn {height:.3g} times as long as x and y")
    heights, low, high = _on_scale(values, scale)
    shades = np.asarray(colormaps[COLOUR_MAPS["mean"]](np.linspace(0.0, 1.0, 64)))
    stops = np.column_stack([np.linspace(0.0, 1.0, 64), shades[:, :3]]).astype(np.float32)
    (left, right), (front, back), (bottom, top) = scene.edges_kpc
    plot = k3d.plot(
        axes=["x [kpc]", "y [kpc]", "z [kpc]" if not flatter else f"z [kpc / {height:.3g}]"],
        background_color=BACKGROUND,
        grid=(left, front, bottom * height, right, back, top * height),
        grid_color=0x3A4254,
        label_color=0xD5DAE6,
        colorbar_object_id=-1,
        camera_auto_fit=False,
        menu_visibility=False,
        name=scene.label,
    )
    unit = unicode_units(scene.units)
    plot += k3d.volume(
        np.ascontiguousarray(heights.transpose(2, 1, 0)),
        color_map=stops.ravel(),
        opacity_function=np.array(OPACITY, dtype=np.float32).ravel(),
        color_range=[low, high],
        bounds=[left, right, front, back, bottom * height, top * height],
        alpha_coef=DENSITY,
        samples=192,
        name=f"{'log₁₀ ' if scale.kind == 'log' else ''}{scene.label}{f' [{unit}]' if unit else ''}",
    )
    frame = scene.frame
    for (x, y, z), text, colour in ((frame.sun_kpc, "Sun", 0x7FDBFF), (frame.centre_kpc, "Galactic centre", 0x9CFFB0)):
        place = [x, y, z * height]
        if not (left <= x <= right and front <= y <= back and bottom <= z <= top):
            continue
        size = 0.012 * max(right - left, back - front)
        plot += k3d.points([place], point_size=size * 1.6, color=colour, shader="3d", name=text)
    middle = [(left + right) / 2, (front + back) / 2, 0.0]
    reach = max(right - left, back - front)
    eye = [middle[0] - 0.68 * reach, middle[1] - 0.95 * reach, 0.68 * reach]
    plot.camera = [*eye, *middle, 0.0, 0.0, 1.0]
    kind = "logarithm of the values" if scale.kind == "log" else "values"
    notes.append(
        f"colours and opacity follow the {kind} from {scale.low:.3g} to {scale.high:.3g}{f' {unit}' if unit else ''}"
    )
    # K3D's style sheet names files of fonts, too, which no page of ours has beside it
    page = str(plot.get_snapshot()).replace("eval(k3dSource);", f"eval(k3dSource.replace({FONT_FILES}, ''));")
    return page, tuple(notes)


def _thinned(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Means over cubes of voxels, so few that a browser can draw them."""
    step = [-(-n // MAX_VOXELS) for n in values.shape]
    if max(step) == 1:
        return np.asarray(values, dtype=np.float64), []
    whole = [n // k for n, k in zip(values.shape, step, strict=True)]
    cut = np.asarray(values, dtype=np.float64)[tuple(slice(0, n * k) for n, k in zip(whole, step, strict=True))]
    parts = cut.reshape(whole[0], step[0], whole[1], step[1], whole[2], step[2])
    known = np.isfinite(parts)
    count = known.sum(axis=(1, 3, 5))
    total = np.where(known, parts, 0.0).sum(axis=(1, 3, 5))
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean, [f"each voxel drawn is the mean of {' x '.join(map(str, step))} of the product"]


def _stretch(scene: VolumeScene) -> tuple[float, bool]:
    (left, right), (front, back), (bottom, top) = scene.edges_kpc
    flat = (top - bottom) / max(right - left, back - front)
    return (STRETCH / flat, True) if flat < STRETCH / 1.5 else (1.0, False)


def _on_scale(values: npt.NDArray[np.float64], scale: ColourScale) -> tuple[npt.NDArray[np.float32], float, float]:
    """Values as K3D colours them, linearly; what is masked lies below the scale and so is clear."""
    low, high = scale.low, scale.high
    if scale.kind == "log":
        low, high = float(np.log10(low)), float(np.log10(high))
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log10(np.maximum(values, scale.low))
    if not np.isfinite(values).any():
        raise SchemaError("a volume without a finite value cannot be drawn")
    return np.where(np.isfinite(values), values, low).astype(np.float32), low, high
