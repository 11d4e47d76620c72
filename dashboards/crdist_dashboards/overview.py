"""One figure of everything a products store holds: maps, sky and profiles with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crdist.errors import RecipeError, SchemaError
from crdist.frames import Frame
from crdist.schema import PRODUCTS_SCHEMA, open_group
from crdist_dashboards.drawing import draw_mollweide, limits, mollweide_raster, outlined
from crdist_dashboards.profiles import draw_profile
from crdist_dashboards.scales import COLOUR_MAPS, GREY, colour_scale, unicode_units

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["overview_figure"]

STATISTICS = ("mean", "std", "significance")
SUFFIXES = (".png", ".svg", ".pdf")
MAX_PIXELS = 2048
"""Pixels that are drawn along one side of a map; a larger one is thinned out."""

WIDTH = 15.0  # inch, of the figure; all lengths below are in inches too
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 0.75, 0.85, 1.05, 0.85
GAP_X, GAP_Y, BAR_WIDTH, BAR_GAP = 1.5, 0.78, 0.13, 0.08
PROFILE_HEIGHT = 3.3
MIN_MAP_ASPECT = 0.26
"""A map flatter than this (height / width) is stretched, and says so."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the figure."""

    name: str
    height: float
    members: tuple[tuple[str, xr.Dataset], ...] = field(hash=False)

    @property
    def gap(self) -> float:
        """Space below for the labels of the axes, which the sky does not have."""
        return GAP_Y - (0.22 if self.name == "sky" else 0.0)


@dataclass(frozen=True, slots=True)
class _Context:
    """What every panel needs to know of the store."""

    quantity: Mapping[str, Any]
    n_sample: int
    frame: Frame

    @property
    def label(self) -> str:
        """What is drawn, in words."""
        return str(self.quantity.get("long_name") or self.quantity.get("name"))


def overview_figure(products: str | Path, out: str | Path, *, dpi: int = 150) -> Path:
    """Draw what a products store holds as one figure.

    Rows, as far as the store has them: the slice nearest to the mid-plane, the projections face-on and
    edge-on, and the sky, each as mean, standard deviation and significance; below, the radial and vertical
    profiles with all samples.

    Parameters
    ----------
    products : path
        A products store, complete or still being written.
    out : path
        File to write; its suffix, .png, .svg or .pdf, is the format.
    dpi : int
        Resolution of the maps.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    RecipeError
        If the suffix is no format.
    SchemaError
        If the store is not one of products, or holds nothing that can be drawn.
    """
    import xarray as xr

    target = Path(out)
    if target.suffix.lower() not in SUFFIXES:
        raise RecipeError(f"{target}: a figure is one of {', '.join(SUFFIXES)}, got {target.suffix or 'no suffix'!r}")
    attrs: Mapping[str, Any] = open_group(products, PRODUCTS_SCHEMA).attrs.asdict()
    with xr.open_datatree(products, engine="zarr") as tree:
        try:
            context = _Context(dict(attrs["quantity"]), int(attrs["n_sample"]), Frame.from_dict(dict(attrs["frame"])))
        except (KeyError, TypeError) as error:
            raise SchemaError(f"{products}: the root attributes lack or garble {error}") from error
        rows = _rows(tree)
        if not rows:
            raise SchemaError(f"{products}: holds no finished map or profile to draw")
        figure = _draw(rows, context, str(attrs.get("status", "")))
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=dpi)
    return target


def _rows(tree: xr.DataTree) -> list[_Row]:
    products = [(node.path.strip("/"), node.to_dataset()) for node in tree.subtree if "kind" in node.attrs]
    drawable = [(name, dataset) for name, dataset in products if _has_values(dataset)]

    def of_kind(kind: str, axis: str | None = None) -> list[tuple[str, xr.Dataset]]:
        return [
            (name, dataset)
            for name, dataset in drawable
            if dataset.attrs["kind"] == kind and (axis is None or dataset.attrs.get("axis") == axis)
        ]

    chosen: list[tuple[str, tuple[str, xr.Dataset]]] = []
    if slices := of_kind("slice", "z"):
        chosen.append(("map", min(slices, key=lambda item: abs(float(item[1].attrs.get("at_kpc", 0.0))))))
    if face_on := of_kind("projection", "z"):
        chosen.append(("map", max(face_on, key=lambda item: _area(item[1]))))
    # Seen along y, the plane holds the Sun and the centre.
    if edge_on := of_kind("projection", "y") or of_kind("projection", "x"):
        chosen.append(("map", max(edge_on, key=lambda item: _area(item[1]))))
    if skies := of_kind("sky"):
        chosen.append(("sky", skies[0]))
    width = _panel_width()
    rows = []
    for name, item in chosen:
        aspect = 2.17 / 4.44 if name == "sky" else max(_aspect(item[1]), MIN_MAP_ASPECT)
        rows.append(_Row(name, width * aspect, (item,)))
    if profiles := of_kind("radial")[:1] + of_kind("vertical")[:1]:
        rows.append(_Row("profiles", PROFILE_HEIGHT, tuple(profiles)))
    return rows


def _draw(rows: list[_Row], context: _Context, status: str) -> Figure:
    """Lay out in inches: panels have the size that their data ask for, nothing is clipped or empty."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = MARGIN_TOP + MARGIN_BOTTOM + sum(row.height + row.gap for row in rows) - rows[-1].gap
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)

    def place(left: float, bottom: float, width: float, tall: float) -> Axes:
        return figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, tall / height))

    _write_title(figure, rows, context, status, height)
    top = height - MARGIN_TOP
    for row in rows:
        bottom = top - row.height
        if row.name == "profiles":
            span = WIDTH - MARGIN_LEFT - MARGIN_RIGHT + 0.5
            width = (span - (len(row.members) - 1) * 0.9) / len(row.members)
            for i, (_, dataset) in enumerate(row.members):
                axes = place(MARGIN_LEFT + i * (width + 0.9), bottom, width, row.height)
                title = f"{_what(dataset)}: {context.n_sample} samples"
                axes.set_title(title, fontsize=10.5, loc="left", pad=5)
                draw_profile(axes, dataset, label=context.label, n_sample=context.n_sample, frame=context.frame)
        else:
            ((_, dataset),) = row.members
            for i, statistic in enumerate(STATISTICS):
                left = MARGIN_LEFT + i * (_panel_width() + GAP_X)
                axes = place(left, bottom, _panel_width(), row.height)
                inset = 0.12 * row.height if row.name == "sky" else 0.0
                bar = place(left + _panel_width() + BAR_GAP, bottom + inset, BAR_WIDTH, row.height - 2 * inset)
                _draw_map(axes, bar, dataset, statistic, context)
        top = bottom - row.gap
    return figure


def _write_title(figure: Figure, rows: list[_Row], context: _Context, status: str, height: float) -> None:
    frame, name = context.frame, context.label
    unfinished = "" if status == "complete" else " (unfinished run)"
    left = MARGIN_LEFT / WIDTH
    figure.text(
        left,
        1 - 0.25 / height,
        name[:1].upper() + name[1:] + unfinished,
        fontsize=17,
        weight="bold",
        va="top",
    )
    notes = [
        f"{context.n_sample} posterior samples",
        f"{frame.name.capitalize()} frame, R₀ = {frame.r0_kpc:g} kpc",
        f"Sun at z = {frame.z_sun_kpc * 1e3:g} pc",
        "☉ Sun    + Galactic centre    dashed: solar circle",
        "grey: no data",
    ]
    figure.text(left, 1 - 0.58 / height, "   |   ".join(notes), fontsize=10, color="0.3", va="top")
    members = [dataset for row in rows for _, dataset in row.members]
    residuals = [float(np.nanmax(np.abs(item["mass_residual"]))) for item in members if "mass_residual" in item]
    foot = "Every product is computed sample by sample; mean, std and significance = mean / std are taken last."
    if residuals:
        foot += f"   Largest relative difference of a total, native to Cartesian grid: {max(residuals):.2g}."
    figure.text(left, 0.16 / height, foot, fontsize=8.5, color="0.4", va="bottom")


def _draw_map(axes: Axes, bar: Axes, dataset: xr.Dataset, statistic: str, context: _Context) -> None:
    from matplotlib.ticker import NullFormatter

    is_sky = dataset.attrs["kind"] == "sky"
    heading = {"mean": "mean", "std": "standard deviation", "significance": "mean / std"}[statistic]
    title = f"{_what(dataset)}: {heading} of {context.n_sample} samples"
    if statistic == "significance":
        title += _significance_note(dataset)
    axes.set_title(title, fontsize=10.5, loc="left", pad=9 if is_sky else 5)
    if statistic not in dataset or not np.isfinite(dataset[statistic].values).any():
        axes.set_axis_off()
        bar.set_axis_off()
        axes.text(0.5, 0.5, f"no {statistic}", transform=axes.transAxes, ha="center", va="center", color="0.5")
        return
    array = dataset[statistic]
    if not is_sky:
        across, up = _map_axes(dataset)
        array = array.transpose(up, across)
        array = array.isel({dim: slice(None, None, -(-array.sizes[dim] // MAX_PIXELS)) for dim in (across, up)})
    values = np.asarray(array.values, dtype=np.float64)
    scale = colour_scale(values)
    style: dict[str, Any] = {"cmap": COLOUR_MAPS[statistic], "norm": scale.norm()}
    if is_sky:
        cells = dataset["cell_ids"]
        scheme = str(cells.attrs.get("indexing_scheme", "nested"))
        raster = mollweide_raster(values, cells.values, int(cells.attrs["level"]), scheme, n_row=500)
        image = draw_mollweide(axes, scale.drawn(raster), **style)
    else:
        extent = (*limits(dataset[across]), *limits(dataset[up]))
        axes.set_facecolor(GREY)
        image = axes.imshow(
            scale.drawn(values),
            origin="lower",
            extent=extent,
            aspect="auto",
            interpolation="nearest",
            **style,
        )
        _draw_marks(axes, across, up, context.frame)
        axes.set(xlim=extent[:2], ylim=extent[2:])
        axes.set_xlabel(f"{across} [kpc]", fontsize=9.5, labelpad=2)
        axes.set_ylabel(f"{up} [kpc]", fontsize=9.5, labelpad=2)
        axes.tick_params(labelsize=8.5)
        stretch = MIN_MAP_ASPECT / _aspect(dataset)
        if stretch > 1.02:
            note = axes.text(0.99, 0.03, f"{up} stretched by {stretch:.2g}", transform=axes.transAxes, fontsize=8)
            note.set(color="white", ha="right", va="bottom", path_effects=outlined())
    figure = axes.get_figure()
    assert figure is not None
    colours = figure.colorbar(image, cax=bar, extend=scale.extend, extendfrac=0.03)
    colours.ax.tick_params(labelsize=8.5)
    if scale.kind == "log":
        colours.ax.yaxis.set_minor_formatter(NullFormatter())
    unit = unicode_units(str(array.attrs.get("units", "")), scale.power)
    label = {"std": "std", "significance": "mean / std"}.get(statistic, statistic) + (f" [{unit}]" if unit else "")
    colours.set_label(label, fontsize=9.5)


def _draw_marks(axes: Axes, across: str, up: str, frame: Frame) -> None:
    """The Sun, the centre of the Galaxy and, face-on, the solar circle."""
    from matplotlib.patches import Circle

    def at(point: tuple[float, float, float]) -> tuple[float, float]:
        return point["xyz".index(across)], point["xyz".index(up)]

    effects = outlined()
    if {across, up} == {"x", "y"}:
        circle = Circle(at(frame.centre_kpc), frame.r0_kpc, fill=False, edgecolor="white", linewidth=1.0)
        circle.set(linestyle=(0, (4, 3)), alpha=0.85, path_effects=effects)
        axes.add_patch(circle)
    (sun_x, sun_y), (centre_x, centre_y) = at(frame.sun_kpc), at(frame.centre_kpc)
    mark: dict[str, Any] = {"linestyle": "none", "path_effects": effects, "color": "white", "clip_on": True}
    axes.plot(centre_x, centre_y, marker="+", markersize=10, markeredgewidth=1.5, **mark)
    axes.plot(sun_x, sun_y, marker="o", markersize=8.5, markerfacecolor="none", markeredgewidth=1.4, **mark)
    axes.plot(sun_x, sun_y, marker="o", markersize=2.2, **mark)


def _what(dataset: xr.Dataset) -> str:
    attrs = dataset.attrs
    kind, axis = attrs["kind"], attrs.get("axis")
    if kind == "slice":
        return f"Slice {axis} = {float(attrs.get('at_kpc', 0.0)):g} kpc"
    if kind == "projection":
        return f"Integral along {axis}"
    if kind == "sky":
        return "Line of sight"
    if kind == "radial":
        return "Radial profile"
    ring = attrs.get("ring_kpc")
    return "Vertical profile" + (f", {ring[0]:g} ≤ R < {ring[1]:g} kpc" if ring else "")


def _significance_note(dataset: xr.Dataset) -> str:
    """How well so few samples know their own standard deviation."""
    if "significance_error" not in dataset:
        return ""
    value = np.asarray(dataset["significance"].values, dtype=np.float64)
    error = np.asarray(dataset["significance_error"].values, dtype=np.float64)
    known = np.isfinite(value) & np.isfinite(error) & (value != 0)
    return f", each ± {100 * float(np.median(error[known] / np.abs(value[known]))):.0f} %" if known.any() else ""


def _has_values(dataset: xr.Dataset) -> bool:
    return "mean" in dataset and dataset.attrs["kind"] != "volume" and bool(dataset["mean"].notnull().any())


def _map_axes(dataset: xr.Dataset) -> tuple[str, str]:
    across, up = sorted(str(dim) for dim in dataset["mean"].dims)
    return across, up


def _aspect(dataset: xr.Dataset) -> float:
    across, up = _map_axes(dataset)
    (left, right), (low, high) = limits(dataset[across]), limits(dataset[up])
    return (high - low) / (right - left)


def _area(dataset: xr.Dataset) -> float:
    across, up = _map_axes(dataset)
    (left, right), (low, high) = limits(dataset[across]), limits(dataset[up])
    return (high - low) * (right - left)


def _panel_width() -> float:
    return (WIDTH - MARGIN_LEFT - MARGIN_RIGHT - 2 * GAP_X) / len(STATISTICS)
