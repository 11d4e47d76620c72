"""FITS files that are written part by part: headers first, then the data in any order, none of it held in memory.

Every header says what the numbers are: quantity, unit, statistic, number of samples, frame with the Sun's place, and
where they come from. Standard: Pence et al. 2010, A&A 524, A42.
"""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from crdist import __version__
from crdist.exporters.samples import Samples
from crdist.exporters.target import ArrayInFile, reserve
from crdist.frames import Frame
from crdist.schema import Derived

__all__ = [
    "BLOCK",
    "FitsPart",
    "HealpixTable",
    "about",
    "about_samples",
    "column_table",
    "healpix_table",
    "image",
    "primary",
    "write_parts",
]

BLOCK = 2880
ROW_PIXELS = 1024
"""Pixels in a row of a HEALPix table that has more, as healpy writes them."""
UNSEEN = -1.6375e30
"""HEALPix's value of a pixel that is not known; also healpy.UNSEEN."""
MAX_COLUMNS = 999
"""TFIELDS has no more, by the standard."""

Cards = Mapping[str, tuple[Any, str]]
"""Values and comments by keyword."""


@dataclass(frozen=True, slots=True)
class FitsPart:
    """A header, and the type and shape of the data behind it, slowest axis first."""

    header: bytes
    """As it stands in the file."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def data_bytes(self) -> int:
        """Length of the data with their padding, byte."""
        n_bytes = self.dtype.itemsize * int(np.prod(self.shape)) if self.shape else 0
        return -(-n_bytes // BLOCK) * BLOCK


@contextmanager
def write_parts(path: Path, parts: Sequence[FitsPart]) -> Iterator[list[ArrayInFile]]:
    """Make a FITS file with all its headers; the caller fills the data of each part before the block ends.

    Yields
    ------
    list of ArrayInFile
        The data, in the order of the parts.
    """
    reserve(path, sum(len(part.header) + part.data_bytes for part in parts))
    with path.open("r+b", buffering=0) as file:
        arrays, offset = [], 0
        for part in parts:
            file.seek(offset)
            file.write(part.header)
            offset += len(part.header)
            arrays.append(ArrayInFile(file, offset, part.dtype, part.shape))
            offset += part.data_bytes
        yield arrays


def primary(cards: Cards, provenance: Mapping[str, Any], comments: Iterable[str] = ()) -> FitsPart:
    """A primary header without data, which carries the whole provenance as JSON in PROVENAN."""
    header = fits.Header()
    header["SIMPLE"] = (True, "FITS standard 4.0")
    header["BITPIX"] = 8
    header["NAXIS"] = 0
    header["EXTEND"] = True
    _add(header, cards)
    _add_provenance(header, provenance, comments)
    return FitsPart(_bytes(header), np.dtype("u1"), ())


def image(
    name: str | None,
    shape: tuple[int, ...],
    cards: Cards,
    *,
    provenance: Mapping[str, Any] | None = None,
    comments: Iterable[str] = (),
) -> FitsPart:
    """An image in single precision; the primary one, with the provenance, where it has no name."""
    header = fits.Header()
    if name is None:
        header["SIMPLE"] = (True, "FITS standard 4.0")
    else:
        header["XTENSION"] = ("IMAGE", "image extension")
    header["BITPIX"] = (-32, "single precision")
    header["NAXIS"] = len(shape)
    for i, size in enumerate(reversed(shape), 1):
        header[f"NAXIS{i}"] = size
    if name is None:
        header["EXTEND"] = True
    else:
        header["PCOUNT"], header["GCOUNT"] = 0, 1
        header["EXTNAME"] = name
    _add(header, cards)
    if provenance is not None:
        _add_provenance(header, provenance, comments)
    return FitsPart(_bytes(header), np.dtype(">f4"), shape)


def column_table(name: str, n_row: int, units: str) -> FitsPart:
    """A table of one column in double precision, which has the table's name."""
    header = _table_header(name, n_row, 8, "D", [(name, units)])
    return FitsPart(_bytes(header), np.dtype(">f8"), (n_row, 1))


def healpix_table(name: str, nside: int, ordering: str, columns: Sequence[tuple[str, str]], cards: Cards) -> FitsPart:
    """A table of the full sky in the HEALPix standard, as healpy lays it out, in single precision.

    Parameters
    ----------
    name : str
        EXTNAME.
    nside : int
    ordering : {"nested", "ring"}
    columns : sequence of (str, str)
        Name and unit of each map.
    cards : mapping
        What else the header says.
    """
    n_pixel = 12 * nside**2
    repeat = ROW_PIXELS if n_pixel > ROW_PIXELS else 1
    header = _table_header(name, n_pixel // repeat, 4 * repeat, f"{repeat}E", columns)
    standard: Cards = {
        "PIXTYPE": ("HEALPIX", "HEALPix pixelisation"),
        "ORDERING": ("NESTED" if ordering == "nested" else "RING", "pixel order"),
        "NSIDE": (nside, "resolution"),
        "FIRSTPIX": (0, "first pixel, counted from 0"),
        "LASTPIX": (n_pixel - 1, "last pixel"),
        "INDXSCHM": ("IMPLICIT", "a pixel is known by its place"),
        "OBJECT": ("FULLSKY", "the whole sky"),
        "COORDSYS": ("G", "Galactic coordinates"),
        "BAD_DATA": (UNSEEN, "pixels that are not known"),
    }
    _add(header, standard)
    _add(header, cards)
    return FitsPart(_bytes(header), np.dtype(">f4"), (n_pixel // repeat, len(columns), repeat))


class HealpixTable:
    """Writes maps into a table that `healpix_table` laid out."""

    def __init__(self, array: ArrayInFile) -> None:
        self._array = array
        self._repeat = array.shape[2]

    def write(self, pixels: slice, columns: slice, values: npt.NDArray[np.floating[Any]]) -> None:
        """Write some neighbouring pixels of some columns, shape (pixel, column); NaN becomes `UNSEEN`."""
        known = np.where(np.isnan(values), UNSEEN, values)
        repeat = self._repeat
        n_column = columns.stop - columns.start
        if pixels.start % repeat == 0 and pixels.stop % repeat == 0:
            rows = slice(pixels.start // repeat, pixels.stop // repeat)
            self._array.write((rows, columns, slice(0, repeat)), known.reshape(-1, repeat, n_column).swapaxes(1, 2))
            return
        for row in range(pixels.start // repeat, -(-pixels.stop // repeat)):
            start, stop = max(pixels.start, row * repeat), min(pixels.stop, (row + 1) * repeat)
            part = known[start - pixels.start : stop - pixels.start].T[None]
            where = (slice(row, row + 1), columns, slice(start - row * repeat, stop - row * repeat))
            self._array.write(where, part)


def about(quantity: str, long_name: str, frame: Frame, n_sample: int) -> dict[str, tuple[Any, str]]:
    """What every header says of its numbers, but their unit and statistic."""
    return {
        "QUANTITY": (quantity, "quantity"),
        "LONGNAME": (long_name, ""),
        "NSAMPLE": (n_sample, "posterior samples"),
        "FRAME": (frame.name, "Cartesian frame"),
        "R0": (frame.r0_kpc, "[kpc] Sun to Galactic centre"),
        "ZSUN": (frame.z_sun_kpc, "[kpc] height of the Sun above the plane"),
        "ROLL": (frame.roll_deg, "[deg] about the line from Sun to centre"),
        "CREATOR": (f"crdist {__version__}", ""),
    }


def about_samples(samples: Samples, long_name: str | None = None) -> dict[str, tuple[Any, str]]:
    """`about` for a quantity of a posterior."""
    quantity: Derived = samples.quantity
    return about(quantity.name, long_name or quantity.long_name, samples.header.frame, samples.n_sample)


def _table_header(
    name: str, n_row: int, column_bytes: int, form: str, columns: Sequence[tuple[str, str]]
) -> fits.Header:
    """The header of a table whose columns have one format; by astropy's own columns it takes ten times as long."""
    header = fits.Header()
    header["XTENSION"] = ("BINTABLE", "binary table extension")
    for key, value in {
        "BITPIX": 8,
        "NAXIS": 2,
        "NAXIS1": column_bytes * len(columns),
        "NAXIS2": n_row,
        "PCOUNT": 0,
        "GCOUNT": 1,
        "TFIELDS": len(columns),
    }.items():
        header[key] = value
    cards = []
    for i, (title, units) in enumerate(columns, 1):
        cards += [(f"TTYPE{i}", title), (f"TFORM{i}", form)]
        if units:
            cards.append((f"TUNIT{i}", units))
    header.extend(cards)
    header["EXTNAME"] = name
    return header


def _bytes(header: fits.Header) -> bytes:
    return bytes(header.tostring().encode("ascii"))


def _add(header: fits.Header, cards: Cards) -> None:
    for key, (value, comment) in cards.items():
        if isinstance(value, str):
            value = _ascii(value)
            # a comment beside a long text would not fit, and be cut with a warning
            header[key] = (value, comment) if len(value) + len(comment) < 60 else value
        else:
            header[key] = (value, comment)


def _add_provenance(header: fits.Header, provenance: Mapping[str, Any], comments: Iterable[str]) -> None:
    for text in comments:
        for line in textwrap.wrap(_ascii(text), 70):
            header.add_comment(line)
    header["PROVENAN"] = json.dumps(provenance, separators=(",", ":"))


def _ascii(text: str) -> str:
    """A header of FITS holds ASCII alone, without line breaks."""
    plain = unicodedata.normalize("NFKD", text.replace("±", "+-").replace("×", "x"))
    return " ".join(plain.encode("ascii", "replace").decode().split())
