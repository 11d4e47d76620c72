"""NumPy arrays in and out of crdist: an importer and an exporter in one module."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from crdist.errors import InputFileError
from crdist.exporters import Exporter, ExportOptions
from crdist.exporters.exporter import Tell
from crdist.importers import ImportOptions, MapLayout, PublishedMap
from crdist.importers.published import grid_of, variable_of
from crdist.schema import read_posterior_header
from crdist.store import open_for_reading, posterior_shards


# begin importer
def open_cube(source: Path, options: ImportOptions, files: ExitStack, scratch: Path) -> PublishedMap:
    """``map.npy`` of shape (pixel, shell, sample), pixels nested, with the shell edges [kpc] in ``map.edges.txt``."""
    edges = source.with_suffix(".edges.txt")
    if not edges.is_file():
        raise InputFileError(f"{source}: its shell edges are missing; write them, in kpc, to {edges}")
    # mapped, not read: crdist asks for a part at a time
    cube = np.load(source, mmap_mode="r")
    if cube.ndim != 3:
        raise InputFileError(f"{source}: has shape {cube.shape}, expected (pixel, shell, sample)")
    grid = grid_of(source, n_pixel=cube.shape[0], n_shell=cube.shape[1], nside=None, edges_kpc=np.loadtxt(edges))
    variable, notes = variable_of(source, options, name="density", units=None, long_name="density")
    return PublishedMap(
        grid=grid,
        n_sample=cube.shape[2],
        variables=(variable,),
        main=variable.name,
        read=lambda name, pixels, shells: np.asarray(cube[pixels, shells], dtype=np.float32),
        slowest="pixel",
        notes=notes,
    )


IMPORTER = MapLayout(
    name="npy-shells",
    summary="one NumPy array (pixel, shell, sample), nested, with its shell edges beside it",
    container="other",
    matches=lambda hdus: False,
    open=open_cube,
)
# end importer


# begin exporter
def write_mean(store: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    """The mean over the samples, one NumPy array of shape (pixel, shell)."""
    header = read_posterior_header(store)
    samples = open_for_reading(header.path, header.variables[0].name)
    mean = np.empty((header.grid.n_pixel, header.grid.n_shell))
    shards = list(posterior_shards(header))
    for done, shard in enumerate(shards, 1):
        mean[shard.pixels, shard.shells] = np.asarray(samples[shard.region]).mean(axis=-1, dtype=np.float64)
        tell(done, len(shards))
    # numpy.save would add .npy to the name of the place
    with target.open("wb") as file:
        np.save(file, mean)
    return f"the mean of {header.n_sample} samples, shape {mean.shape}"


EXPORTER = Exporter(
    name="npy-mean",
    reads=("posterior",),
    suffixes=(".npy",),
    options=frozenset(),
    summary="mean over the samples, for numpy.load",
    write=write_mean,
)
# end exporter
