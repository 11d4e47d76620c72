"""Files of what is shown: pictures by the renderer for print, the numbers as CSV, FITS or Zarr. Made on demand."""

from __future__ import annotations

import io
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crdist.errors import CrdistError, SchemaError
from crdist_dashboards.fits import band_columns, hdu_of
from crdist_dashboards.records import MapView, ProfileView, SkyView

if TYPE_CHECKING:
    import panel as pn
    import xarray as xr

__all__ = ["FORMATS", "View", "downloads", "file_of"]

View = MapView | SkyView | ProfileView

FORMATS = {"PNG": ".png", "SVG": ".svg", "PDF": ".pdf", "CSV": ".csv", "FITS": ".fits", "Zarr, zipped": ".zarr.zip"}
"""Suffix of each format."""


def file_of(view: View, format_: str) -> bytes:
    """A view as a file.

    Parameters
    ----------
    view : MapView, SkyView or ProfileView
    format_ : str
        Of `FORMATS`. Numbers are those stored, in the stored units, as many as are shown.

    Raises
    ------
    SchemaError
        If the format is none.
    """
    if format_ not in FORMATS:
        raise SchemaError(f"a file is one of {', '.join(FORMATS)}, got {format_!r}")
    if format_ == "CSV":
        return _csv(view)
    if format_ == "FITS":
        return _fits(view)
    if format_.startswith("Zarr"):
        return _zarr(view)
    return _picture(view, format_.lower())


def downloads(
    names: Sequence[str],
    views: Callable[[], Mapping[str, View]],
    name: Callable[[], str],
    failed: Callable[[str], None],
) -> pn.Row:
    """A row of widgets that gives one of several views as a file.

    Parameters
    ----------
    names : sequence of str
        The list to choose from.
    views : callable
        What is shown now, by its name in the list.
    name : callable
        Start of the file's name.
    failed : callable
        Gets one line if a file cannot be made.
    """
    import panel as pn

    which = pn.widgets.Select(options=list(names), width=190, margin=(5, 5))
    kind = pn.widgets.Select(options=list(FORMATS), width=120, margin=(5, 5))
    button = pn.widgets.FileDownload(label="Download", filename="crdist.png", width=120, margin=(5, 5), auto=True)

    def give() -> io.BytesIO:
        try:
            chosen = views().get(which.value)
            if chosen is None:
                raise SchemaError(f"{which.value}: nothing is shown of it now")
            button.filename = _file_name(f"{name()}-{which.value}", kind.value)
            return io.BytesIO(file_of(chosen, kind.value))
        except CrdistError as error:
            failed(str(error))
            raise

    button.callback = give

    def rename(*_: Any) -> None:
        button.filename = _file_name(f"{name()}-{which.value}", kind.value)

    kind.param.watch(rename, "value")
    which.param.watch(rename, "value")
    rename()
    return pn.Row(which, kind, button, margin=0)


def _file_name(name: str, format_: str) -> str:
    return (re.sub(r"[^A-Za-z0-9.+\-]+", "_", name).strip("_.") or "crdist") + FORMATS[format_]


def _picture(view: View, suffix: str) -> bytes:
    from crdist_dashboards.figures.layout import lay_out
    from crdist_dashboards.render.matplotlib import AA, print_settings

    file = io.BytesIO()
    with print_settings():
        lay_out([[view]], AA.middle_mm).savefig(file, format=suffix, dpi=AA.dpi)
    return file.getvalue()


def _dataset(view: View) -> xr.Dataset:
    """A view with its coordinates, units and words."""
    import xarray as xr

    attrs: dict[str, Any] = {"title": view.title, "statistic": view.statistic, "quantity": view.quantity}
    if view.notes:
        attrs["notes"] = "; ".join(view.notes)
    if isinstance(view, ProfileView):
        x = view.across.name
        up = {"units": view.up.units, "long_name": view.quantity}
        variables: dict[str, Any] = {name: ((x,), values, up) for name, values in band_columns(view).items()}
        if view.n_sample:
            variables["per_sample"] = ((x, "sample"), view.samples, up)
        coords: dict[str, Any] = {x: ((x,), view.x, {"units": view.across.units, "long_name": view.across.label})}
        return xr.Dataset(variables, coords, attrs)
    if isinstance(view, SkyView) and view.cells is not None:
        cells = view.cells
        healpix = {"grid_name": "healpix", "level": cells.level, "indexing_scheme": cells.scheme}
        values = {"units": view.units, "long_name": f"{view.quantity}, {view.statistic}"}
        coords = {"cell_ids": (("pixel",), cells.cell_ids, healpix)}
        return xr.Dataset({"value": (("pixel",), cells.values, values)}, coords, attrs)
    across, up_name, units = ("u", "v", "") if isinstance(view, SkyView) else (view.across.name, view.up.name, "kpc")
    left, right, bottom, top = view.extent
    n_up, n_across = view.values.shape
    coords = {
        up_name: ((up_name,), bottom + (np.arange(n_up) + 0.5) * (top - bottom) / n_up, {"units": units}),
        across: ((across,), left + (np.arange(n_across) + 0.5) * (right - left) / n_across, {"units": units}),
    }
    if isinstance(view, SkyView):
        attrs |= {"projection": view.projection, "centre_deg": list(view.centre)}
    values = {"units": view.units, "long_name": f"{view.quantity}, {view.statistic}"}
    return xr.Dataset({"value": ((up_name, across), view.values, values)}, coords, attrs)


def _csv(view: View) -> bytes:
    dataset = _dataset(view)
    lines = [f"# {key}: {value}" for key, value in dataset.attrs.items()]
    if isinstance(view, ProfileView):
        columns = {view.across.name: np.asarray(dataset[view.across.name])}
        for key, array in dataset.data_vars.items():
            if array.ndim == 2:
                columns |= {f"sample_{i}": array.values[:, i] for i in range(array.shape[1])}
            else:
                columns[str(key)] = array.values
        units = {key: view.across.units if key == view.across.name else view.up.units for key in columns}
    elif dataset["value"].dims == ("pixel",):
        columns = {"cell_id": dataset["cell_ids"].values, "value": dataset["value"].values}
        units = {"cell_id": "", "value": view.units}
        lines.append(f"# cells: HEALPix, {dataset['cell_ids'].attrs}")
    else:
        value = dataset["value"]
        up, across = value.dims
        mesh = np.meshgrid(dataset[up], dataset[across], indexing="ij")
        columns = {str(across): mesh[1].ravel(), str(up): mesh[0].ravel(), "value": value.values.ravel()}
        units = {key: str(dataset[key].attrs.get("units", "")) for key in columns}
    lines.append("# units: " + ", ".join(f"{key} [{unit or '1'}]" for key, unit in units.items()))
    lines.append(",".join(columns))
    file = io.StringIO("\n".join(lines) + "\n")
    file.seek(0, io.SEEK_END)
    np.savetxt(file, np.column_stack(list(columns.values())), delimiter=",", fmt="%.9g")
    return file.getvalue().encode()


def _fits(view: View) -> bytes:
    from astropy.io import fits

    file = io.BytesIO()
    part = hdu_of(view)
    # an image stands first: programs look there
    parts = [fits.PrimaryHDU(part.data, part.header)] if isinstance(part, fits.ImageHDU) else [fits.PrimaryHDU(), part]
    fits.HDUList(parts).writeto(file)
    return file.getvalue()


def _zarr(view: View) -> bytes:
    import zarr

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "view.zarr.zip"
        with warnings.catch_warnings():
            # zip files have no consolidated metadata of their own in the Zarr 3 specification
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            warnings.filterwarnings("ignore", message="Duplicate name", category=UserWarning)
            store = zarr.storage.ZipStore(path, mode="w")
            _dataset(view).to_zarr(store, consolidated=False)
            store.close()
        return path.read_bytes()
