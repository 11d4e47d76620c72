"""Small posteriors for tests: smooth, positive, different in every sample."""

import numpy as np
import xarray as xr

from crdist.grids import SphericalGrid
from crdist.schema import Variable
from crdist.store import create_posterior, posterior_shards, write_shard


def directions(grid):
    import healpy

    vectors = healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=grid.ordering == "nested")
    return np.stack(vectors, axis=-1)


def smooth_samples(grid, n_sample, seed=0):
    """Samples (pixel, shell, sample): a disc about the Galactic centre times smooth random fields."""
    rng = np.random.default_rng(seed)
    places = directions(grid)[:, None, :] * grid.centres[:, None]
    radius = np.hypot(places[..., 0] - 8.178, places[..., 1])
    disc = np.exp(-radius / 6) * np.exp(-np.abs(places[..., 2]) / 2)
    waves = rng.normal(size=(n_sample, 3)) * 0.5
    phases = rng.uniform(0, 2 * np.pi, n_sample)
    return (disc[..., None] * np.exp(0.3 * np.cos(places @ waves.T + phases))).astype(np.float32)


def as_samples(values, grid):
    """A variable as an opened posterior has it, in memory."""
    kpc = {"units": "kpc"}
    attrs = {"level": grid.level, "indexing_scheme": grid.ordering}
    return xr.DataArray(
        values,
        dims=("pixel", "shell", "sample"),
        coords={
            "cell_ids": ("pixel", np.arange(grid.n_pixel), attrs),
            "distance": ("shell", grid.centres, kpc),
            "distance_lower": ("shell", grid.edges[:-1], kpc),
            "distance_upper": ("shell", grid.edges[1:], kpc),
        },
        attrs={"units": "cm-3"},
        name="density",
    )


def write_posterior(path, grid, samples, units="cm-3", name="density"):
    """A packed store of one variable."""
    header = create_posterior(
        path,
        grid,
        [Variable(name, units, "number density")],
        n_sample=samples.shape[-1],
        layout="packed",
        provenance={"source": {"name": "test", "bytes": 0, "sha256": ""}},
    )
    for shard in posterior_shards(header):
        write_shard(header, name, shard, samples[shard.region])
    return header


def small_posterior(path, nside=4, n_shell=10, n_sample=4, seed=0):
    grid = SphericalGrid.log_spaced(nside, n_shell, 0.05, 25.0)
    return write_posterior(path, grid, smooth_samples(grid, n_sample, seed))


SMALL_RECIPE = {
    "grid": {"x": [-12, 12], "y": [-12, 12], "z": [-2, 2], "voxel": 0.5},
    "products": [
        "midplane",
        "projection_x",
        "projection_z",
        {"name": "local_z", "voxel": 0.25},
        "sky",
        {"name": "radial", "bins": [0, 12, 2], "z_cut": 0.5},
        {"name": "vertical", "bins": [-2, 2, 0.5]},
        "volume",
    ],
}
