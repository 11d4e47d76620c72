"""NumPy archives, as ``numpy.savez(file, samples=..., distance_edges_kpc=..., ...)`` writes them.

=======================  ===============================================================================
``samples``              (sample, pixel, shell), or (pixel, shell) for one map; any real type
``distance_edges_kpc``   shell edges, n_shell + 1 values
``distance_centres_kpc`` shell centres, optional
``nside``                HEALPix resolution, optional
``ordering``             ``"nested"`` or ``"ring"``
``units``                unit of the density, as astropy writes it
``name``                 name of the variable, optional
=======================  ===============================================================================

The samples are read where they lie in the archive. Those of a compressed archive are unpacked first, into a
file without a name beside the target, which vanishes with the process.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from crdist.errors import InputFileError
from crdist.importers.filearray import AxisName, FileArray, SampleImage, read_pieces, reading
from crdist.importers.fitsfile import open_binary
from crdist.importers.published import (
    MEAN_NOTE,
    ImportOptions,
    MapLayout,
    PublishedMap,
    grid_of,
    ordering_of,
    variable_of,
)

__all__ = ["NPZ"]

REQUIRED = ("samples", "distance_edges_kpc", "ordering")
KNOWN = (*REQUIRED, "distance_centres_kpc", "nside", "units", "name")
SMALL_BYTES = 16 * 1024**2
"""No array beside the samples is longer."""
LOCAL_HEADER_BYTES = 30
"""Length of a member's header in a zip archive, before its name and extra field (APPNOTE 4.3.7)."""


def open_npz(path: Path, options: ImportOptions, files: ExitStack, scratch: Path) -> PublishedMap:
    """Open an archive in this layout.

    Raises
    ------
    InputFileError
        If an array is missing, unknown, damaged or does not fit the others.
    """
    try:
        with reading(path):
            archive = files.enter_context(zipfile.ZipFile(path))
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        missing = [key for key in REQUIRED if key not in members]
        unknown = sorted(set(members) - set(KNOWN))
        for what, keys in (("lacks", missing), ("has unknown arrays", unknown)):
            if keys:
                raise InputFileError(f"{path}: {what} {', '.join(keys)}; the layout 'npz' has {', '.join(KNOWN)}")
        small = {key: _small_array(path, archive, name) for key, name in members.items() if key != "samples"}
        samples = _samples(path, archive, members["samples"], files, scratch)
    # RuntimeError: encrypted, or compressed in a way that Python does not know
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputFileError(
            f"{path}: damaged or cut short ({str(error) or type(error).__name__}); fetch it again"
        ) from error
    if len(samples.shape) not in (2, 3):
        raise InputFileError(f"{path}: samples must be (sample, pixel, shell) or (pixel, shell), got {samples.shape}")
    whole: tuple[AxisName, ...] = ("sample", "pixel", "shell")
    axes = whole[-len(samples.shape) :]
    grid = grid_of(
        path,
        n_pixel=samples.shape[-2],
        n_shell=samples.shape[-1],
        nside=_scalar(path, small, "nside"),
        edges_kpc=_distances(path, small["distance_edges_kpc"]),
        centres_kpc=_distances(path, small["distance_centres_kpc"]) if "distance_centres_kpc" in small else None,
    )
    units, name = (_scalar(path, small, key) for key in ("units", "name"))
    variable, notes = variable_of(
        path,
        options,
        name="density" if name is None else str(name),
        units=None if units is None else str(units),
        long_name="density",
    )
    if len(axes) == 2:
        notes += (MEAN_NOTE,)
    image = SampleImage(samples, axes, grid.nside, ordering_of(path, _scalar(path, small, "ordering")))

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


def _samples(path: Path, archive: zipfile.ZipFile, name: str, files: ExitStack, scratch: Path) -> FileArray:
    member = archive.getinfo(name)
    unpacked: BinaryIO | None = None
    if member.compress_type != zipfile.ZIP_STORED:
        unpacked = files.enter_context(_nameless_file(scratch))
    with reading(path):
        stream = files.enter_context(archive.open(member))
        dtype, shape = _npy_header(path, stream)
        offset = stream.tell()
    # To the end in any case: the archive's checksum is verified there.
    n_data = 0
    for piece in read_pieces(stream, path):
        n_data += len(piece)
        if unpacked is not None:
            unpacked.write(piece)
    if n_data != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise InputFileError(f"{path}: samples of shape {shape} do not take {n_data} bytes; fetch the file again")
    if unpacked is not None:
        unpacked.flush()
        return FileArray(unpacked, path, 0, dtype, shape)
    file = files.enter_context(open_binary(path))
    with reading(path):
        file.seek(member.header_offset)
        header = file.read(LOCAL_HEADER_BYTES)
    # the lengths of the name and of the extra field: those of the archive's directory may differ
    lengths = np.frombuffer(header, dtype="<u2", count=2, offset=26)
    return FileArray(file, path, member.header_offset + LOCAL_HEADER_BYTES + int(lengths.sum()) + offset, dtype, shape)


def _nameless_file(folder: Path) -> Any:
    return tempfile.TemporaryFile(dir=folder)


def _npy_header(path: Path, stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        version = npy.read_magic(stream)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran_order, dtype = read_header(stream)
    except (ValueError, KeyError) as error:
        raise InputFileError(f"{path}: samples are no NumPy array ({error})") from error
    if fortran_order:
        raise InputFileError(f"{path}: samples lie in Fortran order; save numpy.ascontiguousarray(samples)")
    if dtype.kind not in "fiu":
        raise InputFileError(f"{path}: samples must be real numbers, got {dtype}")
    return dtype, shape


def _small_array(path: Path, archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    if archive.getinfo(name).file_size > SMALL_BYTES:
        raise InputFileError(f"{path}: {name} is too long for what it should be")
    with reading(path), archive.open(name) as stream:
        try:
            return np.asarray(npy.read_array(stream, allow_pickle=False))
        except ValueError as error:
            raise InputFileError(f"{path}: {name} cannot be read ({error})") from error


def _scalar(path: Path, small: dict[str, npt.NDArray[Any]], key: str) -> Any:
    if key not in small:
        return None
    if small[key].size != 1:
        raise InputFileError(f"{path}: {key} must be one value, got shape {small[key].shape}")
    return small[key].item()


def _distances(path: Path, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if values.dtype.kind not in "fiu" or values.ndim != 1:
        raise InputFileError(f"{path}: distances must be a list of numbers, got {values.dtype} {values.shape}")
    return values.astype(np.float64)


NPZ = MapLayout(
    name="npz",
    summary="NumPy archive: samples (sample, pixel, shell) and their grid",
    container="npz",
    matches=lambda hdus: False,
    open=open_npz,
)
