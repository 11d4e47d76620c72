"""The layout of the 3D dust map of Edenhofer et al. 2024, A&A 685, A82 (Zenodo 8187943).

An image (sample, shell, pixel), or (shell, pixel) for a mean, in the HDU ``primary``, ``mean``, ``samples``
or ``healpix times distance``, with NSIDE, ORDERING and CUNIT in its header; tables ``radial pixel
boundaries`` and ``radial pixel centers`` in pc. Standard deviations and the extinction integrated up to the
inner edge come beside it; they are no samples on the grid and stay out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crdist.errors import InputFileError
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

__all__ = ["EDENHOFER"]

MAP_NAMES = ("primary", "mean", "samples", "healpix times distance")


def open_edenhofer(path: Path, options: ImportOptions, files: ExitStack, scratch: Path) -> PublishedMap:
    """Open a file in this layout.

    Raises
    ------
    InputFileError
        If a part is missing, unknown or does not fit the others.
    """
    hdus = scan(path)
    maps = [hdu for hdu in hdus if _is_map(hdu)]
    left_out = [hdu for hdu in hdus if _is_beside_the_map(hdu)]
    unknown = [hdu for hdu in hdus if hdu.shape and hdu not in maps and hdu not in left_out and not radial_columns(hdu)]
    if unknown:
        raise InputFileError(f"{path}: parts unknown to the layout 'edenhofer': {describe(unknown)}")
    if len(maps) != 1:
        raise InputFileError(f"{path}: one image of the density is expected, got {len(maps)}: {describe(maps) or '-'}")
    (hdu,) = maps
    if len(hdu.shape) not in (2, 3):
        raise InputFileError(f"{path}: the image must be (sample, shell, pixel) or (shell, pixel), got {hdu.shape}")
    for keyword in ("NSIDE", "ORDERING"):
        if keyword not in hdu.header:
            raise InputFileError(f"{path}: the header of HDU {hdu.index} {hdu.name!r} lacks {keyword}")
    edges_kpc, centres_kpc = shell_distances(hdus, "pc")
    n_shell, n_pixel = hdu.shape[-2:]
    grid = grid_of(
        path,
        n_pixel=n_pixel,
        n_shell=n_shell,
        nside=hdu.header["NSIDE"],
        edges_kpc=edges_kpc,
        centres_kpc=centres_kpc,
    )
    variable, notes = variable_of(
        path,
        options,
        name="extinction_density",
        units=hdu.header.get("CUNIT", hdu.header.get("BUNIT")),
        long_name="differential extinction",
    )
    axes: tuple[AxisName, ...] = ("sample", "shell", "pixel") if len(hdu.shape) == 3 else ("shell", "pixel")
    image = SampleImage(image_array(hdu, files), axes, grid.nside, ordering_of(path, hdu.header["ORDERING"]))
    if len(hdu.shape) == 2:
        notes += (MEAN_NOTE,)
    notes += tuple(f"not imported: {part.name}" for part in left_out)

    def read(name: str, pixels: slice, shells: slice) -> npt.NDArray[np.float32]:
        return image.read(pixels, shells)

    return PublishedMap(
        grid=grid,
        n_sample=image.n_sample,
        variables=(variable,),
        main=variable.name,
        read=read,
        slowest=image.slowest,
        notes=notes,
    )


def is_edenhofer(hdus: Sequence[Hdu]) -> bool:
    """Whether the parts of a file look like this layout."""
    return any(_is_map(hdu) for hdu in hdus) and any(radial_columns(hdu) for hdu in hdus)


def _is_map(hdu: Hdu) -> bool:
    return hdu.kind == "image" and bool(hdu.shape) and hdu.name in MAP_NAMES


def _is_beside_the_map(hdu: Hdu) -> bool:
    names = ("integrated inner", "mean of integrated inner", "std. of integrated inner")
    return hdu.kind == "image" and bool(hdu.shape) and (hdu.name == "std." or hdu.name.startswith(names))


EDENHOFER = MapLayout(
    name="edenhofer",
    summary="3D dust map of Edenhofer et al. 2024: FITS image (sample, shell, pixel)",
    container="FITS",
    matches=is_edenhofer,
    open=open_edenhofer,
)
