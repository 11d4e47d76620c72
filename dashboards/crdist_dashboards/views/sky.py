"""Maps of the sky: any HEALPix map, and the line-of-sight products of a store, on a plane."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import SchemaError
from crdist_dashboards.celestial import SkyPlane, mask_edges
from crdist_dashboards.products import ProductInfo, ProductsSource
from crdist_dashboards.records import Curve, Mark, SkyCells, SkyView
from crdist_dashboards.scales import COLOUR_MAPS, ColourScale, ScaleKind, colour_scale
from crdist_dashboards.views.maps import HEADINGS, colours_of, sample_words

__all__ = ["N_ROW", "product_sky", "sky_view", "value_on_sky"]

Array = npt.NDArray[Any]
Projection = Literal["mollweide", "gnomonic"]

N_ROW = 400
"""Height of a raster, in pixels."""


def sky_view(
    values: Array,
    cell_ids: Array,
    level: int,
    scheme: str,
    *,
    statistic: str,
    title: str = "Sky",
    quantity: str = "",
    units: str = "",
    colours: str = COLOUR_MAPS["mean"],
    scale: ScaleKind | ColourScale = "auto",
    projection: Projection = "mollweide",
    centre: tuple[float, float] = (0.0, 0.0),
    size_deg: float = 30.0,
    mask: Array | None = None,
    sources: Sequence[tuple[str, float, float]] = (),
    notes: Sequence[str] = (),
    n_row: int = N_ROW,
) -> SkyView:
    """A HEALPix map of the Galactic sky on a plane, longitude increasing to the left.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Values of the cells; NaN is masked.
    cell_ids : ndarray of int, shape (n,)
        Their HEALPix numbers; cells that are not named are masked.
    level : int
        HEALPix level: nside = 2**level.
    scheme : {"nested", "ring"}
    statistic : str
        Which statistic of how many samples, in words.
    title, quantity, units : str
        As `SkyView` has them.
    colours : str
        Colour map.
    scale : {"auto", "linear", "log"} or ColourScale
        By default taken from all values, so that it stays when the window moves.
    projection : {"mollweide", "gnomonic"}
    centre : tuple of float, degree
        Galactic longitude and latitude of the middle.
    size_deg : float, degree
        Width of a gnomonic map.
    mask : ndarray of bool, shape (n,), optional
        Cells whose edges are drawn.
    sources : sequence of (str, float, float)
        Name, longitude and latitude [degree] of what is marked, where it lies on the map.
    notes : sequence of str
    n_row : int
        Height of the raster; a Mollweide raster is twice as wide.

    Returns
    -------
    SkyView

    Raises
    ------
    SchemaError
        If the cells are none of that level, the shapes differ, or no value is finite.
    """
    nside = 2**level
    given, cells = np.asarray(values, dtype=np.float64), np.asarray(cell_ids)
    if scheme not in ("nested", "ring"):
        raise SchemaError(f"HEALPix cells are numbered nested or ring, got {scheme!r}")
    if given.shape != cells.shape or given.ndim != 1:
        raise SchemaError(f"a sky has one value a cell, got shapes {given.shape} and {cells.shape}")
    if cells.size and not (0 <= cells.min() and cells.max() < 12 * nside**2):
        raise SchemaError(
            f"cells of level {level} are 0 to {12 * nside**2 - 1}, got {int(cells.min())} to {int(cells.max())}"
        )
    plane = SkyPlane(projection, (float(centre[0]), float(centre[1])), float(size_deg))
    # one more for what lies outside the sky, whose cell is -1
    whole = np.full(12 * nside**2 + 1, np.nan, dtype=np.float32)
    whole[cells] = given
    pixels, inside = plane.raster(n_row, level, scheme)
    outlines: tuple[Curve, ...] = ()
    if mask is not None:
        chosen = np.asarray(mask, dtype=bool)
        if chosen.shape != cells.shape:
            raise SchemaError(f"a mask has one value a cell, got shapes {chosen.shape} and {cells.shape}")
        masked = np.zeros(12 * nside**2, dtype=bool)
        masked[cells] = chosen
        outlines = mask_edges(masked, level, scheme, plane)
    graticule, labels = plane.graticule()
    return SkyView(
        title=title,
        statistic=statistic,
        quantity=quantity,
        values=whole[pixels],
        inside=inside,
        projection=projection,
        centre=plane.centre,
        extent=plane.extent,
        units=units,
        colours=colours,
        scale=scale if isinstance(scale, ColourScale) else colour_scale(given, scale),
        graticule=graticule,
        labels=labels,
        outlines=outlines,
        marks=_marks(sources, plane),
        notes=(*notes, *_masked_note(given, 12 * nside**2)),
        cells=SkyCells(given, cells, level, "nested" if scheme == "nested" else "ring"),
    )


def product_sky(
    source: ProductsSource,
    product: str,
    statistic: str = "mean",
    *,
    sample: int | None = None,
    scale: ScaleKind | ColourScale = "auto",
    projection: Projection = "mollweide",
    centre: tuple[float, float] = (0.0, 0.0),
    size_deg: float = 30.0,
    sources: Sequence[tuple[str, float, float]] = (),
    n_row: int = N_ROW,
) -> SkyView:
    """A line-of-sight product of a store.

    Parameters
    ----------
    source : ProductsSource
    product : str
        Of kind sky.
    statistic : str
        One of the product's ``statistics``.
    sample : int, optional
        Which, for the statistic ``sample``; counted from 0. All samples have one colour scale.
    scale, projection, centre, size_deg, sources, n_row
        As for `sky_view`.

    Raises
    ------
    SchemaError
        If the product is of another kind, has no such statistic, or nothing of it is finished yet.
    """
    info = source.info(product)
    if info.kind != "sky":
        raise SchemaError(f"{source.path}: {product} is a {info.kind}, expected a sky")
    values = _values(source, info, statistic, sample)
    if not np.isfinite(values).any():
        missing = "is not finished yet" if source.status == "running" else "has no finite value"
        raise SchemaError(f"{source.path}: {statistic} of product {product} {missing}")
    level, scheme = _numbering(source, product)
    if statistic == "sample" and not isinstance(scale, ColourScale):
        scale = colour_scale(source.read(product, "per_sample"), scale)
    distance = info.attrs.get("distance_kpc")
    reach = f", {distance[0]:g} to {distance[1]:g} kpc" if distance else ""
    notes = ["unfinished run"] if source.status != "complete" else []
    return sky_view(
        values,
        source.read(product, "cell_ids"),
        level,
        scheme,
        statistic=_words(source, info, statistic, sample),
        title=f"Line of sight{reach}",
        quantity=source.quantity.long_name,
        units="" if statistic in ("significance", "significance_error", "coverage") else info.units,
        colours=colours_of(source, statistic),
        scale=scale,
        projection=projection,
        centre=centre,
        size_deg=size_deg,
        sources=sources,
        notes=notes,
        n_row=n_row,
    )


def value_on_sky(view: SkyView, x: float, y: float) -> tuple[float, float, float] | None:
    """Longitude and latitude [degree] at a point of the plane, and the stored value there; None outside the sky.

    Examples
    --------
    >>> view = sky_view(np.arange(12.0), np.arange(12), 0, "ring", statistic="mean")
    >>> value_on_sky(view, 0.0, 0.95)[2], value_on_sky(view, 1.9, 0.9)
    (0.0, None)
    """
    import healpy

    plane = SkyPlane(view.projection, view.centre, _size_deg(view))
    left, right, bottom, top = view.extent
    if view.cells is None or not (left <= x <= right and bottom <= y <= top):
        return None
    longitude, latitude = (float(value) for value in plane.to_sky(x, y))
    if not np.isfinite(latitude):
        return None
    cells = view.cells
    cell = healpy.ang2pix(2**cells.level, longitude, latitude, nest=cells.scheme == "nested", lonlat=True)
    found = np.flatnonzero(cells.cell_ids == cell)
    return longitude, latitude, float(cells.values[found[0]]) if found.size else float("nan")


def _numbering(source: ProductsSource, product: str) -> tuple[int, str]:
    """Level and order of the cells of a product, which its coordinate says as xdggs reads it."""
    key = (*source.version, product)
    if key not in _NUMBERING:
        try:
            cells = zarr.open_array(str(source.path / product / "cell_ids"), mode="r")
            attrs: Mapping[str, Any] = cells.attrs.asdict()
            found = int(attrs["level"]), str(attrs.get("indexing_scheme", "nested"))
        except Exception as error:  # zarr raises many kinds for metadata that are damaged
            raise SchemaError(
                f"{source.path}: the cells of product {product} lack their HEALPix level; make it anew"
            ) from error
        while len(_NUMBERING) >= MAX_NUMBERINGS:
            _NUMBERING.pop(next(iter(_NUMBERING)), None)
        _NUMBERING[key] = found
    return _NUMBERING[key]


_NUMBERING: dict[tuple[Hashable, ...], tuple[int, str]] = {}
MAX_NUMBERINGS = 256


def _values(source: ProductsSource, info: ProductInfo, statistic: str, sample: int | None) -> Array:
    if statistic not in info.statistics:
        has = ", ".join(info.statistics)
        raise SchemaError(f"{source.path}: product {info.name} has no statistic {statistic!r}; it has {has}")
    if statistic == "sample":
        if sample is None or not 0 <= sample < info.n_sample:
            raise SchemaError(f"{source.path}: product {info.name}: which sample? 0 to {info.n_sample - 1}")
        return source.read(info.name, "per_sample")[..., sample]
    if statistic not in info.variables:
        level = float(statistic[1:]) / 100.0
        return source.read(info.name, "quantiles")[..., int(np.argmin(np.abs(np.array(info.quantiles) - level)))]
    return source.read(info.name, statistic)


def _words(source: ProductsSource, info: ProductInfo, statistic: str, sample: int | None) -> str:
    if statistic == "sample":
        return sample_words(sample, info.n_sample)
    heading = HEADINGS.get(statistic, f"{statistic[1:]} % quantile" if statistic.startswith("q") else statistic)
    words = f"{heading} of {info.n_sample} samples"
    if statistic == "significance" and "significance_error" in info.variables:
        # how well so few samples know their own standard deviation
        value, error = (source.read(info.name, name) for name in (statistic, "significance_error"))
        known = np.isfinite(value) & np.isfinite(error) & (value != 0)
        if known.any():
            words += f", each ± {100 * float(np.median(error[known] / np.abs(value[known]))):.0f} %"
    return words


def _marks(sources: Sequence[tuple[str, float, float]], plane: SkyPlane) -> tuple[Mark, ...]:
    left, right, bottom, top = plane.extent
    marks = []
    for label, longitude, latitude in sources:
        x, y = (float(value) for value in plane.to_plane(longitude, latitude))
        if left <= x <= right and bottom <= y <= top:
            marks.append(Mark("source", x, y, label))
    return tuple(marks)


def _masked_note(values: Array, n_cell: int) -> tuple[str, ...]:
    share = 1.0 - np.isfinite(values).sum() / n_cell
    return (f"{100 * share:.2g} % of the sky without a value",) if share > 0 else ()


def _size_deg(view: SkyView) -> float:
    half: float = np.radians(view.extent[1])
    return 30.0 if view.projection == "mollweide" else float(2.0 * np.degrees(np.arctan(half)))
