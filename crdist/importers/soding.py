"""The layout of the 3D gas maps of Söding et al. 2025 (Zenodo 12578443).

Tables ``radial pixel centres`` and ``radial pixel edges`` in kpc, then two images: the density of atomic
hydrogen and that of hydrogen molecules, both in cm-3. The axes are told apart by their sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crdist.errors import InputFileError, RecipeError
from crdist.importers.filearray import AxisName, SampleImage
from crdist.importers.fitsfile import Hdu, describe, image_array, radial_columns, scan, shell_distances
from crdist.importers.published import (
    MEAN_NOTE,
    ImportOptions,
    MapLayout,
    PublishedMap,
    grid_of,
    ordering_of,
    variable_of,
)
from crdist.schema import Derived

__all__ = ["SODING"]

ATOMS, MOLECULES = "n_hi", "n_h2"
LONG_NAMES = {ATOMS: "number density of hydrogen atoms", MOLECULES: "number density of hydrogen molecules"}
HDU_NAMES = {"hi": ATOMS, "n_hi": ATOMS, "h2": MOLECULES, "n_h2": MOLECULES}


def open_soding(path: Path, options: ImportOptions, files: ExitStack, scratch: Path) -> PublishedMap:
    """Open a file in this layout.

    Raises
    ------
    InputFileError
        If a part is missing, unknown or does not fit the others.
    RecipeError
        If a name is given: the file holds two variables.
    """
    if options.name is not None:
        raise RecipeError(f"{path}: the layout 'soding' holds {ATOMS} and {MOLECULES}; leave name={options.name!r} out")
    hdus = scan(path)
    images = [hdu for hdu in hdus if hdu.kind == "image" and hdu.shape]
    unknown = [hdu for hdu in hdus if hdu.shape and hdu.kind != "image" and not radial_columns(hdu)]
    if unknown or len(images) != 2:
        raise InputFileError(
            f"{path}: the layout 'soding' has two images (HI, H2) and tables of shell edges and centres; "
            f"this file has {describe([hdu for hdu in hdus if hdu.shape]) or 'no data'}"
        )
    edges_kpc, centres_kpc = shell_distances(hdus, "kpc")
    first, second = (HDU_NAMES.get(hdu.name) for hdu in images)
    if first is not None and first == second:
        raise InputFileError(f"{path}: both images are called {images[0].name!r}")
    if first == MOLECULES or second == ATOMS:
        images.reverse()
    shape = images[0].shape
    if images[1].shape != shape:
        raise InputFileError(f"{path}: the images of HI and H2 differ in shape, {shape} and {images[1].shape}")
    axes = _axes(path, images[0], edges_kpc.size - 1)
    grid = grid_of(
        path,
        n_pixel=shape[axes.index("pixel")],
        n_shell=shape[axes.index("shell")],
        nside=images[0].header.get("NSIDE"),
        edges_kpc=edges_kpc,
        centres_kpc=centres_kpc,
    )
    samples = {}
    variables = []
    notes: tuple[str, ...] = () if "sample" in axes else (MEAN_NOTE,)
    for name, hdu in zip((ATOMS, MOLECULES), images, strict=True):
        # The published file gives no unit and no order: both are the paper's.
        ordering = ordering_of(path, hdu.header.get("ORDERING", "NESTED"))
        samples[name] = SampleImage(image_array(hdu, files), axes, grid.nside, ordering)
        variable, more = variable_of(
            path, options, name=name, units=hdu.header.get("BUNIT", "cm-3"), long_name=LONG_NAMES[name]
        )
        variables.append(variable)
        notes += more
    units = {variable.units for variable in variables}
    if len(units) != 1:
        raise InputFileError(f"{path}: HI and H2 are in different units, {' and '.join(sorted(units))}")
    nuclei = Derived("n_h", units.pop(), "number density of hydrogen nuclei", terms=((ATOMS, 1.0), (MOLECULES, 2.0)))

    def read(name: str, pixels: slice, shells: slice) -> npt.NDArray[np.float32]:
        return samples[name].read(pixels, shells)

    return PublishedMap(
        grid=grid,
        n_sample=samples[ATOMS].n_sample,
        variables=tuple(variables),
        derived=(nuclei,),
        main=nuclei.name,
        read=read,
        slowest=samples[ATOMS].slowest,
        notes=notes,
    )


def is_soding(hdus: Sequence[Hdu]) -> bool:
    """Whether the parts of a file look like this layout."""
    images = [hdu for hdu in hdus if hdu.kind == "image" and hdu.shape]
    named = all(hdu.name == "" or hdu.name in HDU_NAMES for hdu in images)
    return len(images) == 2 and named and any(radial_columns(hdu) for hdu in hdus)


def _axes(path: Path, hdu: Hdu, n_shell: int) -> tuple[AxisName, ...]:
    """Which axis is which, by their sizes alone."""
    names: tuple[AxisName, ...] = ("pixel", "shell", "sample")
    stated = hdu.header.get("NSIDE")
    if stated is not None and not isinstance(stated, int):
        raise InputFileError(f"{path}: NSIDE must be a whole number, got {stated!r}")

    def is_sphere(size: int) -> bool:
        return size == 12 * stated**2 if stated is not None else size in {12 * 4**level for level in range(14)}

    fitting = [
        axes
        for axes in itertools.permutations(names[: len(hdu.shape)])
        if len(hdu.shape) in (2, 3)
        and is_sphere(hdu.shape[axes.index("pixel")])
        and hdu.shape[axes.index("shell")] == n_shell
    ]
    sizes = f"{12 * stated**2 if stated is not None else '12 NSIDE^2'} pixels and {n_shell} shells"
    if not fitting:
        raise InputFileError(f"{path}: no axes of the image {hdu.shape} are {sizes} (as the tables and header say)")
    if len(fitting) > 1:
        raise InputFileError(
            f"{path}: the axes of the image {hdu.shape} cannot be told apart by {sizes}: "
            f"{' or '.join(str(axes) for axes in fitting)}; give it as an npz file, whose axes have an order"
        )
    return fitting[0]


SODING = MapLayout(
    name="soding",
    summary="3D gas maps of Söding et al. 2025: FITS images of HI and H2, axes found by size",
    container="FITS",
    matches=is_soding,
    open=open_soding,
)
