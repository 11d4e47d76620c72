"""What an importer hands over: a map whose samples can be read piece by piece."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError, InputFileError, RecipeError, SchemaError
from crdist.grids import SphericalGrid
from crdist.schema import COORDINATES, Derived, Variable
from crdist.units import parse_unit

if TYPE_CHECKING:
    from crdist.importers.fitsfile import Hdu

__all__ = ["ImportOptions", "MapLayout", "PublishedMap", "grid_of", "ordering_of", "variable_of"]

MEAN_NOTE = "the file holds one map and no samples: it is stored as one sample, and statistics need two or more"

# Published centres are often rounded, or kept in single precision; within this they are the geometric mean.
CENTRE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the user says about a file: it goes before what the file says."""

    units: str | None = None
    """Unit of the density."""
    name: str | None = None
    """Name of the variable."""


@dataclass(frozen=True, slots=True)
class PublishedMap:
    """A published map, ready to be read piece by piece."""

    grid: SphericalGrid
    """Its grid, in nested order."""
    n_sample: int
    """Number of posterior samples."""
    variables: tuple[Variable, ...]
    """What it holds."""
    main: str
    """The variable that ``density`` means."""
    read: Callable[[str, slice, slice], npt.NDArray[np.float32]]
    """``read(variable, pixels, shells)``: all samples of some nested pixels, shape (pixel, shell, sample)."""
    slowest: Literal["pixel", "shell"]
    """Which of the two the file runs through more slowly."""
    derived: tuple[Derived, ...] = ()
    """Weighted sums of the variables."""
    notes: tuple[str, ...] = ()
    """What a user of the store should know: parts left out, readings chosen."""


@dataclass(frozen=True, slots=True)
class MapLayout:
    """A layout in which maps are published."""

    name: str
    """The name by which `import_map` is asked for it."""
    summary: str
    """What it is, in one line."""
    container: Literal["FITS", "npz", "other"]
    """Kind of file. What is neither FITS nor npz is not recognised: its layout must be asked for."""
    matches: Callable[[Sequence[Hdu]], bool]
    """Whether the parts of a FITS file look like it."""
    open: Callable[[Path, ImportOptions, ExitStack, Path], PublishedMap]
    """``open(source, options, files, scratch)``: files to be closed at the end go on the stack, large
    temporary ones into the folder ``scratch``."""


def variable_of(
    path: Path, options: ImportOptions, *, name: str, units: str | None, long_name: str
) -> tuple[Variable, tuple[str, ...]]:
    """The variable that a file of one quantity holds, and notes for its provenance.

    Parameters
    ----------
    path : Path
        The file, for messages.
    options : ImportOptions
        What the user says.
    name, long_name : str
        The file's or the layout's own.
    units : str or None
        What the file says.

    Raises
    ------
    InputFileError
        If nobody says the unit, or it cannot be read.
    RecipeError
        If the name cannot be that of a variable.
    """
    name = options.name or name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in COORDINATES:
        raise RecipeError(
            f"{path}: a variable cannot be called {name!r}; give a name of letters, digits and _ "
            f"that is none of {', '.join(COORDINATES)}"
        )
    stated = units.strip() if units else None
    if options.units is None and not stated:
        raise InputFileError(f"{path}: does not say the unit of its density; give it, such as units='cm-3'")
    chosen = options.units or stated or ""
    try:
        parse_unit(chosen)
    except SchemaError as error:
        raise InputFileError(f"{path}: {error}") from error
    notes: tuple[str, ...] = ()
    if stated and chosen != stated:
        notes = (f"the file gives the unit {stated!r}; {chosen!r} was asked for",)
    return Variable(name, chosen, long_name), notes


def ordering_of(path: Path, ordering: object) -> Literal["nested", "ring"]:
    """The pixel order that a file's keyword or key means.

    Raises
    ------
    InputFileError
        If it is neither RING nor NESTED.
    """
    word = str(ordering).strip().lower()
    if word in ("nest", "nested"):
        return "nested"
    if word == "ring":
        return "ring"
    raise InputFileError(f"{path}: the pixel order must be RING or NESTED, got {ordering!r}")


def grid_of(
    path: Path,
    *,
    n_pixel: int,
    n_shell: int,
    nside: object,
    edges_kpc: npt.NDArray[np.float64],
    centres_kpc: npt.NDArray[np.float64] | None = None,
) -> SphericalGrid:
    """The grid of a file, with the sizes of its map checked against what the file says.

    Parameters
    ----------
    path : Path
        The file, for messages.
    n_pixel, n_shell : int
        Sizes of the map.
    nside : int or None
        What the file says; None where it does not.
    edges_kpc, centres_kpc : ndarray, kpc
        Shell edges and centres as published. Centres are kept where they differ from the geometric mean.

    Raises
    ------
    InputFileError
        If the numbers do not fit each other.
    """
    if nside is None:
        nside = round((n_pixel / 12) ** 0.5)
    if isinstance(nside, bool) or not isinstance(nside, int | np.integer) or n_pixel != 12 * int(nside) ** 2:
        raise InputFileError(f"{path}: a map of {n_pixel} pixels is no HEALPix sphere of NSIDE {nside} (12 NSIDE^2)")
    if edges_kpc.size != n_shell + 1:
        raise InputFileError(f"{path}: {edges_kpc.size} shell edges do not bound the {n_shell} shells of the map")
    if centres_kpc is not None and centres_kpc.size != n_shell:
        raise InputFileError(f"{path}: {centres_kpc.size} shell centres do not fit the {n_shell} shells of the map")
    try:
        grid = SphericalGrid(int(nside), tuple(edges_kpc.tolist()))
        if centres_kpc is None or np.allclose(centres_kpc, grid.centres, rtol=CENTRE_TOLERANCE, atol=0.0):
            return grid
        return SphericalGrid(int(nside), grid.edges_kpc, tuple(centres_kpc.tolist()))
    except GridError as error:
        raise InputFileError(f"{path}: {error}") from error
