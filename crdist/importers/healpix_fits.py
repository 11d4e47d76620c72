"""One HEALPix map a shell, as healpy writes them.

Each shell is a binary table in the HEALPix standard, what ``healpy.write_map`` writes and ``healpy.read_map``
reads: the full sky with implicit indices in Galactic coordinates, either order, one column a sample, TUNIT
the unit of the density. The shells are the tables of one file, or of all ``*.fits`` files of a folder. Their
distances are either

* in the header of each table, keywords R_INNER and R_OUTER in kpc, which also put the shells in order; or
* in one table with the column ``radial pixel edges`` (kpc if it gives no unit); the shells are then in the
  order of the tables, files in the order of their names.

NSHELL, the number of shells of the whole map, may stand in a primary header or in those of the tables. It should: of
a file that was cut between two tables, or a folder that lacks the outermost shells, the rest looks whole. Where it is
given it must be the number of tables found.

With healpy: ``write_map(..., coord="G", column_units="cm-3", extra_header=[("R_INNER", 0.05), ..., ("NSHELL", 196)])``.

Pixels with healpy's UNSEEN become NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import InputFileError
from crdist.importers.filearray import BLOCK_BYTES, SEEK_BYTES, PixelSelection, physical_values, read_items, shifted
from crdist.importers.fitsfile import (
    Column,
    Hdu,
    describe,
    open_binary,
    radial_columns,
    scan,
    shell_distances,
)
from crdist.importers.published import (
    MEAN_NOTE,
    ImportOptions,
    MapLayout,
    PublishedMap,
    grid_of,
    ordering_of,
    variable_of,
)

__all__ = ["HEALPIX_FITS"]

UNSEEN = -1.6375e30  # HEALPix's value of a pixel that was not seen; also healpy.UNSEEN
UNSEEN_TOLERANCE = 1e25  # single precision keeps it to 1e23

EDGE_TOLERANCE = 1e-6
"""Neighbouring shells share an edge to this fraction of it."""


@dataclass(frozen=True, slots=True)
class ShellTable:
    """The samples of one shell."""

    hdu: Hdu
    columns: tuple[Column, ...]
    row_dtype: np.dtype[Any]
    ordering: Literal["nested", "ring"]

    @property
    def repeat(self) -> int:
        """Pixels in a row."""
        return self.columns[0].repeat

    @property
    def n_pixel(self) -> int:
        """Pixels in the table."""
        return self.hdu.shape[0] * self.repeat

    def read_into(self, values: npt.NDArray[np.float32], selection: PixelSelection) -> None:
        """Read some pixels of all samples into an array of shape (pixel, sample)."""
        width = self.row_dtype.itemsize
        step = max(1, BLOCK_BYTES // width)
        with open_binary(self.hdu.path) as file:
            for run in selection.runs(gap=4 * SEEK_BYTES * self.repeat // width):
                last_row = -(-run.stop // self.repeat)
                for row in range(run.start // self.repeat, last_row, step):
                    n_row = min(step, last_row - row)
                    offset = self.hdu.offset + row * width
                    rows = read_items(file, self.hdu.path, offset, self.row_dtype, (n_row,))
                    # A row may reach beyond the run, whose pixels alone are meant here.
                    stored = slice(max(run.start, row * self.repeat), min(run.stop, (row + n_row) * self.repeat))
                    taken, place = selection.locate(stored)
                    taken = shifted(taken, -row * self.repeat)
                    for i, column in enumerate(self.columns):
                        raw = rows[f"{i}"].reshape(-1)[taken]
                        numbers = physical_values(raw, column.scale, column.zero, column.blank)
                        with np.errstate(over="ignore"):
                            values[place, i] = np.where(np.abs(numbers - UNSEEN) < UNSEEN_TOLERANCE, np.nan, numbers)


def open_healpix_fits(path: Path, options: ImportOptions, files: ExitStack, scratch: Path) -> PublishedMap:
    """Open a file or a folder in this layout.

    Raises
    ------
    InputFileError
        If a shell is missing, unknown or does not fit the others.
    """
    sources = sorted(path.glob("*.fits")) if path.is_dir() else [path]
    parts = [hdu for source in sources for hdu in scan(source)]
    hdus = [hdu for hdu in parts if hdu.shape]
    unknown = [hdu for hdu in hdus if not _is_sphere(hdu) and not radial_columns(hdu)]
    if unknown:
        raise InputFileError(f"{unknown[0].path}: parts unknown to the layout 'healpix-fits': {describe(unknown)}")
    shells = [_shell(hdu) for hdu in hdus if _is_sphere(hdu)]
    if not shells:
        raise InputFileError(f"{path}: has no table with PIXTYPE = 'HEALPIX'")
    shells, edges_kpc, centres_kpc = _in_order(path, hdus, shells)
    for hdu in parts:
        stated = hdu.header.get("NSHELL", len(shells))
        if stated != len(shells):
            raise InputFileError(
                f"{path}: {len(shells)} shells are there, but NSHELL = {stated!r} in {_place(hdu)}; fetch the rest"
            )
    first = shells[0]
    for shell in shells:
        for what, here, there in (
            ("pixels", shell.n_pixel, first.n_pixel),
            ("samples (columns)", len(shell.columns), len(first.columns)),
            ("unit", shell.columns[0].units, first.columns[0].units),
        ):
            if here != there:
                raise InputFileError(
                    f"{path}: the shells differ in {what}: "
                    f"{there} in {_place(first.hdu)}, {here} in {_place(shell.hdu)}"
                )
    grid = grid_of(
        path,
        n_pixel=first.n_pixel,
        n_shell=len(shells),
        nside=first.hdu.header.get("NSIDE"),
        edges_kpc=edges_kpc,
        centres_kpc=centres_kpc,
    )
    variable, notes = variable_of(path, options, name="density", units=first.columns[0].units, long_name="density")
    if not all("COORDSYS" in shell.hdu.header for shell in shells):
        notes += ("COORDSYS is not given everywhere: Galactic coordinates are assumed",)
    if len(first.columns) == 1:
        notes += (MEAN_NOTE,)

    def read(name: str, pixels: slice, which: slice) -> npt.NDArray[np.float32]:
        selections = {ordering: PixelSelection(grid.nside, ordering, pixels) for ordering in orderings}
        chosen = shells[which]
        values = np.empty((len(chosen), pixels.stop - pixels.start, len(first.columns)), dtype=np.float32)
        for i, shell in enumerate(chosen):
            shell.read_into(values[i], selections[shell.ordering])
        return values.transpose(1, 0, 2)

    orderings = {shell.ordering for shell in shells}
    return PublishedMap(
        grid=grid,
        n_sample=len(first.columns),
        variables=(variable,),
        main=variable.name,
        read=read,
        slowest="shell",
        notes=notes,
    )


def is_healpix_fits(hdus: Sequence[Hdu]) -> bool:
    """Whether the parts of a file look like this layout."""
    return any(_is_sphere(hdu) for hdu in hdus)


def _is_sphere(hdu: Hdu) -> bool:
    return hdu.kind == "table" and str(hdu.header.get("PIXTYPE", "")).strip().upper() == "HEALPIX"


def _place(hdu: Hdu) -> str:
    return f"HDU {hdu.index} of {hdu.path.name}"


def _shell(hdu: Hdu) -> ShellTable:
    header, columns = hdu.header, hdu.columns
    where = f"{hdu.path}: HDU {hdu.index}"
    if str(header.get("INDXSCHM", "IMPLICIT")).strip().upper() != "IMPLICIT":
        raise InputFileError(f"{where} holds a part of the sky (INDXSCHM {header['INDXSCHM']}); write the full sky")
    coordinates = str(header.get("COORDSYS", "G")).strip().upper()
    if not coordinates.startswith("G"):
        raise InputFileError(f"{where} is in the coordinates {coordinates!r}; rotate it to Galactic ones ('G')")
    if "ORDERING" not in header:
        raise InputFileError(f"{where} lacks ORDERING (RING or NESTED)")
    if not columns or any(column.dtype.kind not in "fiu" or column.repeat < 1 for column in columns):
        raise InputFileError(f"{where} must hold columns of real numbers, got {describe([hdu])}")
    if len({(column.repeat, column.units) for column in columns}) != 1:
        raise InputFileError(f"{where}: its columns, the samples, must have one unit and one length")
    return ShellTable(hdu, columns, hdu.row_dtype, ordering_of(hdu.path, header["ORDERING"]))


def _in_order(
    path: Path, hdus: Sequence[Hdu], shells: list[ShellTable]
) -> tuple[list[ShellTable], npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """The shells by distance, their edges and, if published, their centres, kpc."""
    if any(radial_columns(hdu) for hdu in hdus):
        return shells, *shell_distances(hdus, "kpc")
    for shell in shells:
        for keyword in ("R_INNER", "R_OUTER"):
            if not isinstance(shell.hdu.header.get(keyword), int | float):
                raise InputFileError(
                    f"{shell.hdu.path}: HDU {shell.hdu.index} lacks {keyword} [kpc], "
                    "and there is no table 'radial pixel edges'"
                )
    shells = sorted(shells, key=lambda shell: float(shell.hdu.header["R_INNER"]))
    inner = np.array([shell.hdu.header["R_INNER"] for shell in shells], dtype=np.float64)
    outer = np.array([shell.hdu.header["R_OUTER"] for shell in shells], dtype=np.float64)
    apart = np.flatnonzero(~np.isclose(inner[1:], outer[:-1], rtol=EDGE_TOLERANCE, atol=0.0))
    if apart.size:
        i = int(apart[0])
        raise InputFileError(
            f"{path}: the shells must follow each other, "
            f"but R_OUTER = {outer[i]:g} kpc in {_place(shells[i].hdu)} and "
            f"R_INNER = {inner[i + 1]:g} kpc in {_place(shells[i + 1].hdu)}"
        )
    return shells, np.append(inner, outer[-1]), None


HEALPIX_FITS = MapLayout(
    name="healpix-fits",
    summary="one HEALPix table a shell as healpy writes it, in one FITS file or a folder of them",
    container="FITS",
    matches=is_healpix_fits,
    open=open_healpix_fits,
)
