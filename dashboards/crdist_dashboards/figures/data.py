"""The numbers behind a figure, in formats that other programs read: FITS for maps, ECSV for profiles; and its text."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from crdist import __version__
from crdist_dashboards.figures.paper import PaperFigure
from crdist_dashboards.fits import ascii_text, band_columns, hdu_of
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.records import ProfileView

__all__ = ["write_data", "write_text"]


def write_data(figure: PaperFigure, folder: Path) -> list[Path]:
    """Write what a figure shows.

    Parameters
    ----------
    figure : PaperFigure
    folder : path
        One FITS file with an HDU a map, one ECSV file a profile, and one of the published points beside it.

    Returns
    -------
    list of Path
    """
    maps = [view for view in figure.views if not isinstance(view, ProfileView)]
    written = [_write_maps(figure, maps, folder / f"{figure.stem}.fits")] if maps else []
    for view in figure.views:
        if isinstance(view, ProfileView):
            written.append(_write_profile(view, folder / f"{figure.stem}.ecsv"))
            if view.points:
                written.append(_write_points(view, folder / f"{figure.stem}_literature.ecsv"))
    return written


def write_text(figure: PaperFigure, folder: Path) -> Path:
    """Write title, caption and where the numbers come from, as plain text."""
    lines = [f"Figure {figure.number}. {figure.title}", "", *textwrap.wrap(figure.caption, 100), "", "Provenance"]
    lines += [
        f"  drawn by crdist {__version__}",
        *(f"  {line}" for source in figure.sources for line in _origin(source)),
    ]
    path = folder / f"{figure.stem}.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _origin(source: Any) -> list[str]:
    if not isinstance(source, ProductsSource):
        of = source.header.provenance.get("source", {})
        name = of.get("name", "") if isinstance(of, dict) else ""
        return [
            f"{source.path.name}: posterior, {source.n_sample} samples, {source.status}" + (f"; {name}" if name else "")
        ]
    frame, made = source.frame, source.attrs.get("provenance") or {}
    lines = [
        f"{source.path.name}: products of {source.quantity.name} [{source.quantity.units}], {source.n_sample} samples, "
        f"{source.status}; {frame.name} frame, R0 = {frame.r0_kpc:g} kpc, z_sun = {frame.z_sun_kpc:g} kpc"
    ]
    of = made.get("source") or {}
    if "name" in of:
        lines.append(f"  computed from {of['name']}, SHA-256 {of.get('digest', 'unknown')}")
    if versions := made.get("versions"):
        lines.append("  with " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return lines


def _write_maps(figure: PaperFigure, views: list[Any], path: Path) -> Path:
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    primary.header["TITLE"] = ascii_text(figure.title)
    primary.header["ORIGIN"] = f"crdist {__version__}"
    parts = [primary]
    for i, view in enumerate(views, 1):
        part = hdu_of(view)
        part.header["EXTNAME"] = f"PANEL{i}"
        parts.append(part)
    fits.HDUList(parts).writeto(path, overwrite=True)
    return path


def _write_profile(view: ProfileView, path: Path) -> Path:
    from astropy.table import Table

    table = Table(meta=_meta(view))
    table[view.across.name] = view.x
    table[view.across.name].unit = view.across.units or None
    columns = band_columns(view) | {f"sample_{i}": view.samples[:, i] for i in range(view.n_sample)}
    for name, values in columns.items():
        table[name] = values
        table[name].unit = view.up.units or None
    table.write(path, format="ascii.ecsv", overwrite=True)
    return path


def _write_points(view: ProfileView, path: Path) -> Path:
    from astropy.table import Table, vstack

    parts = []
    for points in view.points:
        columns: dict[str, Any] = {"label": [points.label] * points.x.size, "radius": points.x}
        columns |= {"radius_lower": points.x_lower, "radius_upper": points.x_upper, "value": points.y}
        columns |= {"value_lower": points.y_lower, "value_upper": points.y_upper}
        columns["reference"] = [points.reference] * points.x.size
        parts.append(Table(columns))
    table = vstack(parts)
    for name in table.colnames:
        if name.startswith(("radius", "value")):
            table[name].unit = view.across.units if name.startswith("radius") else view.up.units
    table.meta = _meta(view)
    table.write(path, format="ascii.ecsv", overwrite=True)
    return path


def _meta(view: ProfileView) -> dict[str, Any]:
    lines = [
        {"label": line.label, "kind": line.kind, "x": line.x.tolist(), "y": line.y.tolist()}
        for line in view.lines
        if line.label and line.x.size == 2
    ]
    lines += [{"label": line.label, "kind": line.kind} for line in view.lines if line.label and line.x.size != 2]
    return {
        "title": view.title,
        "statistic": view.statistic,
        "quantity": view.quantity,
        "lines": lines,
        "notes": list(view.notes),
    }
