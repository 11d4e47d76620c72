"""The parts of a FITS file: what its headers promise, checked against its size, and where the data lie.

The headers are parsed by astropy; the data are read by offset, in pieces, so that no file is too large.
Standard: Pence et al. 2010, A&A 524, A42.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.io import fits

from crdist.errors import InputFileError
from crdist.importers.filearray import FileArray, physical_values, read_items, reading

__all__ = [
    "Column",
    "Hdu",
    "describe",
    "image_array",
    "open_binary",
    "radial_columns",
    "scan",
    "shell_distances",
]

BLOCK = 2880

IMAGE_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
COLUMN_TYPES = {
    **{"L": "S1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "A": "S1"},
    **{"E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16", "P": "V8", "Q": "V16"},
}

RADIAL_COLUMNS: Mapping[str, Literal["edges", "centres"]] = {
    "radial pixel edges": "edges",
    "radial pixel boundaries": "edges",
    "radial pixel centres": "centres",
    "radial pixel centers": "centres",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a binary table."""

    name: str
    dtype: np.dtype[Any]
    """Type of one row's entry, with its byte order."""
    repeat: int
    """Values in a row."""
    units: str | None
    scale: float
    zero: float
    blank: int | None


@dataclass(frozen=True, slots=True)
class Hdu:
    """A header and its data."""

    path: Path
    index: int
    name: str
    """EXTNAME in lower case; ``primary`` for the first if it has none."""
    kind: Literal["image", "table", "other"]
    header: Any
    offset: int
    """Where the data begin, byte."""
    shape: tuple[int, ...]
    """Shape of the data, slowest axis first; of a table (row, byte); empty without data."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of a table."""
        return tuple(_column(self, i + 1) for i in range(int(self.header.get("TFIELDS", 0))))

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """The type of one row of a table; its fields are named by number, since names may repeat."""
        dtype = np.dtype([(f"{i}", column.dtype, (column.repeat,)) for i, column in enumerate(self.columns)])
        if dtype.itemsize != self.shape[1]:
            raise InputFileError(
                f"{self.path}: the columns of HDU {self.index} take {dtype.itemsize} bytes a row, "
                f"its header says {self.shape[1]}; fetch the file again"
            )
        return dtype


def open_binary(path: Path) -> BinaryIO:
    """Open a source file for reading.

    Raises
    ------
    InputFileError
        If that is not possible.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise InputFileError(f"{path}: cannot be opened ({error.strerror})") from error


def scan(path: Path) -> tuple[Hdu, ...]:
    """Read all headers of a FITS file and check that the data they promise are there.

    Raises
    ------
    InputFileError
        If the file cannot be read, is cut short, damaged or tile-compressed.
    """
    hdus: list[Hdu] = []
    with open_binary(path) as file, reading(path):
        size = os.fstat(file.fileno()).st_size
        start = 0
        while start < size:
            file.seek(start)
            if hdus and file.read(8) != b"XTENSION":
                break  # the standard allows other records after the last extension
            file.seek(start)
            hdu = _read_header(file, path, len(hdus))
            length = _data_bytes(hdu)
            # Padding counts: without it a file cut between its last value and its last block looks whole.
            start = hdu.offset + -(-length // BLOCK) * BLOCK
            if start > size:
                raise InputFileError(
                    f"{path}: cut short, HDU {hdu.index} ({hdu.name or 'unnamed'}) ends at byte {start}, "
                    f"the file at {size}; fetch it again"
                )
            hdus.append(hdu)
    return tuple(hdus)


def describe(hdus: Sequence[Hdu]) -> str:
    """The parts of a file in a few words, for messages."""
    words = []
    for hdu in hdus:
        if hdu.kind == "table":
            words.append(f"HDU {hdu.index} table of {', '.join(repr(column.name) for column in hdu.columns)}")
        else:
            words.append(f"HDU {hdu.index} {hdu.kind} {hdu.name!r} {hdu.shape}")
    return "; ".join(words)


def image_array(hdu: Hdu, files: ExitStack) -> FileArray:
    """The data of an image, to be read in pieces; the file stays open as long as the stack."""
    header = hdu.header
    return FileArray(
        file=files.enter_context(open_binary(hdu.path)),
        path=hdu.path,
        offset=hdu.offset,
        dtype=np.dtype(IMAGE_TYPES[header["BITPIX"]]),
        shape=hdu.shape,
        scale=float(header.get("BSCALE", 1.0)),
        zero=float(header.get("BZERO", 0.0)),
        # the keyword means nothing in an image of floating-point numbers
        blank=header.get("BLANK") if header["BITPIX"] > 0 else None,
    )


def radial_columns(hdu: Hdu) -> dict[Literal["edges", "centres"], int]:
    """Which columns of a table are shell edges and shell centres; empty if the table holds anything else."""
    if hdu.kind != "table":
        return {}
    kinds = [RADIAL_COLUMNS.get(column.name.strip().lower()) for column in hdu.columns]
    return {kind: i for i, kind in enumerate(kinds) if kind is not None} if None not in kinds else {}


def shell_distances(
    hdus: Sequence[Hdu], default_unit: Literal["pc", "kpc"]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """Shell edges and, if published, shell centres of a file, kpc.

    Parameters
    ----------
    hdus : sequence of Hdu
        The parts of the file.
    default_unit : {"pc", "kpc"}
        The layout's unit, where the column does not give one.

    Raises
    ------
    InputFileError
        If there are no edges, or more than one table of them.
    """
    found: dict[str, npt.NDArray[np.float64]] = {}
    for hdu in hdus:
        for kind, i in radial_columns(hdu).items():
            if kind in found:
                raise InputFileError(f"{hdu.path}: has more than one table of shell {kind}")
            column = hdu.columns[i]
            with open_binary(hdu.path) as file:
                rows = read_items(file, hdu.path, hdu.offset, hdu.row_dtype, hdu.shape[:1])
            values = physical_values(rows[f"{i}"].reshape(-1), column.scale, column.zero, column.blank)
            try:
                factor = u.Unit(column.units or default_unit).to(u.kpc)
            except (ValueError, u.UnitConversionError) as error:
                raise InputFileError(f"{hdu.path}: shell {kind} in {column.units!r} are no distances") from error
            found[kind] = values.astype(np.float64) * factor
    if "edges" not in found:
        raise InputFileError(f"{hdus[0].path}: has no table 'radial pixel edges' (or 'radial pixel boundaries')")
    return found["edges"], found.get("centres")


def _read_header(file: BinaryIO, path: Path, index: int) -> Hdu:
    start = file.tell()
    try:
        header = fits.Header.fromfile(file, endcard=True, padding=True)
        naxis = [int(header[f"NAXIS{i + 1}"]) for i in range(int(header["NAXIS"]))]
        if int(header["BITPIX"]) not in IMAGE_TYPES or min(naxis, default=0) < 0:
            raise ValueError(f"BITPIX {header['BITPIX']}, axes {naxis}")
    except (OSError, KeyError, ValueError, EOFError, fits.VerifyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's: astropy's own, for a header without an end, have no number
        raise InputFileError(
            f"{path}: cut short or damaged, the header at byte {start} cannot be read; fetch the file again"
        ) from error
    if header.get("ZIMAGE"):
        raise InputFileError(f"{path}: HDU {index} is a tile-compressed image; decompress the file first (funpack)")
    xtension = str(header.get("XTENSION", "IMAGE")).strip()
    kind: Literal["image", "table", "other"] = "other"
    if xtension in ("IMAGE", "BINTABLE"):
        kind = "image" if xtension == "IMAGE" else "table"
    name = str(header.get("EXTNAME", "" if index else "primary")).strip().lower()
    return Hdu(path, index, name, kind, header, file.tell(), tuple(reversed(naxis)))


def _data_bytes(hdu: Hdu) -> int:
    if not hdu.shape:
        return 0
    header = hdu.header
    items = int(header.get("PCOUNT", 0)) + math.prod(hdu.shape)
    return abs(int(header["BITPIX"])) // 8 * int(header.get("GCOUNT", 1)) * items


def _column(hdu: Hdu, number: int) -> Column:
    header = hdu.header
    form = str(header.get(f"TFORM{number}", "")).strip()
    match = re.fullmatch(r"(\d*)([LXBIJKAEDCMPQ]).*", form)
    if match is None:
        raise InputFileError(f"{hdu.path}: column {number} of HDU {hdu.index} has the unknown format {form!r}")
    repeat = int(match[1] or 1)
    if match[2] == "X":
        # bits, eight to a byte
        dtype, repeat = np.dtype("u1"), -(-repeat // 8)
    else:
        dtype = np.dtype(COLUMN_TYPES[match[2]])
    return Column(
        name=str(header.get(f"TTYPE{number}", f"column {number}")).strip(),
        dtype=dtype,
        repeat=repeat,
        units=header.get(f"TUNIT{number}"),
        scale=float(header.get(f"TSCAL{number}", 1.0)),
        zero=float(header.get(f"TZERO{number}", 0.0)),
        blank=header.get(f"TNULL{number}"),
    )
