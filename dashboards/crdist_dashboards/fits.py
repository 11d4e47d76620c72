"""Views as FITS: images with their coordinates, skies as HEALPix tables, profiles as tables; words in the header."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np

from crdist_dashboards.records import MapView, ProfileView, SkyView

__all__ = ["ascii_text", "band_columns", "hdu_of"]

ASCII = str.maketrans("\N{MINUS SIGN}\N{MULTIPLICATION SIGN}·☉≤≥⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹₀χσ", "-x.@<>-+01234567890XS")


def hdu_of(view: MapView | SkyView | ProfileView) -> Any:
    """A view as an HDU.

    Parameters
    ----------
    view : MapView, SkyView or ProfileView

    Returns
    -------
    astropy.io.fits.ImageHDU or BinTableHDU
        Values in the stored unit, with title, statistic (``STATIST``), quantity and notes (``COMMENT``). A sky is a
        table of its cells where it has them (``PIXTYPE`` HEALPIX, explicit, Galactic), else an image of its projection;
        a profile has its bands and, in one column of arrays, its samples.
    """
    if isinstance(view, ProfileView):
        part = _profile(view)
    elif isinstance(view, SkyView) and view.cells is not None:
        part = _cells(view)
    else:
        part = _image(view)
    for key, text in (("TITLE", view.title), ("STATIST", view.statistic), ("QUANTITY", view.quantity)):
        part.header[key] = ascii_text(text)
    for note in view.notes:
        part.header["COMMENT"] = ascii_text(note)
    return part


def ascii_text(text: str) -> str:
    """Text as a header of FITS can hold it, which is ASCII alone.

    Examples
    --------
    >>> ascii_text("mean ± std, −3 ≤ z, R₀, 10⁻¹³ GeV⁻¹")
    'mean +- std, -3 < z, R0, 10-13 GeV-1'
    """
    plain = unicodedata.normalize("NFKD", text.replace("±", "+-").translate(ASCII))
    return plain.encode("ascii", "replace").decode()


def band_columns(view: ProfileView) -> dict[str, Any]:
    """Mean and the edges of the bands, by names of columns."""
    columns: dict[str, Any] = {"mean": view.mean}
    for band in view.bands:
        name = re.sub(r"\W+", "_", band.label.replace(" % of the samples", "").replace("±", "pm")).strip("_")
        columns |= {f"band_{name}_lower": band.lower, f"band_{name}_upper": band.upper}
    return columns


def _image(view: MapView | SkyView) -> Any:
    from astropy.io import fits

    part = fits.ImageHDU(np.asarray(view.values, dtype=np.float32))
    left, right, bottom, top = view.extent
    n_up, n_across = view.values.shape
    names = (("U", ""), ("V", ""))
    if isinstance(view, MapView):
        names = ((view.across.name.upper(), view.across.units), (view.up.name.upper(), view.up.units))
    for i, (name, units), low, step in (
        (1, names[0], left, (right - left) / n_across),
        (2, names[1], bottom, (top - bottom) / n_up),
    ):
        # the outer edge of the first pixel
        keys = {f"CTYPE{i}": name, f"CUNIT{i}": units, f"CRPIX{i}": 0.5, f"CRVAL{i}": low, f"CDELT{i}": step}
        part.header.update(keys)
    part.header["BUNIT"] = view.units
    return part


def _cells(view: SkyView) -> Any:
    from astropy.io import fits

    cells = view.cells
    assert cells is not None
    columns = [
        fits.Column("PIXEL", "K", array=np.asarray(cells.cell_ids, dtype=np.int64)),
        fits.Column("VALUE", "D", unit=view.units or None, array=np.asarray(cells.values, dtype=np.float64)),
    ]
    part = fits.BinTableHDU.from_columns(columns)
    keys = {"PIXTYPE": "HEALPIX", "ORDERING": cells.scheme.upper(), "NSIDE": 2**cells.level, "COORDSYS": "G"}
    part.header.update({**keys, "INDXSCHM": "EXPLICIT", "OBJECT": "PARTIAL"})
    return part


def _profile(view: ProfileView) -> Any:
    from astropy.io import fits

    up = view.up.units or None
    columns = [fits.Column(view.across.name, "D", unit=view.across.units or None, array=view.x)]
    columns += [fits.Column(name, "D", unit=up, array=values) for name, values in band_columns(view).items()]
    if view.n_sample:
        columns.append(fits.Column("per_sample", f"{view.n_sample}D", unit=up, array=view.samples))
    part = fits.BinTableHDU.from_columns(columns)
    part.header["EXTNAME"] = "PROFILE"
    return part
