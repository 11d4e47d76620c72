"""Products stores written block by block by the real writer, from a formula that a test can evaluate again."""

import numpy as np
import pytest

from crdist.grids import Axis, CartesianGrid, SphericalGrid
from crdist_postproc.output import (
    RunFolder,
    create_products,
    declare_complete,
    write_block,
    write_last_step,
    write_strip,
)
from crdist_postproc.products.base import BlockResult, Quantity
from crdist_postproc.products.maps import ProjectionMap, SliceMap
from crdist_postproc.products.volume import BY_PLANE, VolumeMap
from crdist_postproc.statistics import summarise

N_SAMPLE = 6
SHAPE = (40, 40, 24)


def field(points, frame, seed=1):
    """Every sample of a disc with ripples at points of a frame, shape (..., N_SAMPLE); NaN far from the Sun."""
    centred = frame.galactocentric.from_heliocentric(frame.to_heliocentric(points))
    x, y, z = np.moveaxis(centred, -1, 0)
    factors = np.exp(np.random.default_rng(seed).normal(0, 0.2, N_SAMPLE))
    disc = np.exp(-np.hypot(x, y) / 6.0 - np.abs(z)) * (1.5 + np.sin(0.7 * x) * np.cos(0.5 * y))
    tilt = 1.0 + 0.02 * x[..., None] * np.linspace(-1, 1, N_SAMPLE)
    values = 1e-9 * disc[..., None] * factors * tilt
    return np.where(np.hypot(x + frame.r0_kpc, y)[..., None] < 16.0, values, np.nan)


def products_of(frame, shape=SHAPE, *, per_sample=True, quantiles=()):
    """A slice across z, projections along all axes and a volume, the volume without samples."""
    nx, ny, nz = shape
    shift = frame.sun_kpc[0] + 8.0 if frame.name == "heliocentric" else 0.0
    x, y, z = Axis(-20.0 + shift, 20.0 + shift, nx), Axis(-20.0, 20.0, ny), Axis(-3.0, 3.0, nz)
    common = {
        "quantity": Quantity("density", "cm-3", "number density", N_SAMPLE),
        "frame": frame,
        "quantiles": quantiles,
        "per_sample": per_sample,
    }
    grid = CartesianGrid(x, y, z, frame)
    native = SphericalGrid.log_spaced(1, 2, 0.1, 20.0)
    flat = CartesianGrid(x, y, Axis(-0.125, 0.125, 1), frame)
    return [
        SliceMap(name="midplane", axis="z", grid=flat, native=native, **common),
        *(
            ProjectionMap(name=f"projection_{axis}", axis=axis, grid=grid, native=native, extend=True, **common)
            for axis in "xyz"
        ),
        VolumeMap(name="volume", grid=grid, native=native, **{**common, "per_sample": False}),
    ]


def values_of(product, seed=1):
    """Each sample of a product on its whole grid."""
    axes = [axis.centres for axis in product.grid.axes]
    whole = field(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), product.frame, seed)
    if product.kind == "volume":
        return whole
    if product.kind == "slice":
        return whole[:, :, 0]
    axis = "xyz".index(product.axis)
    total = np.nansum(whole, axis=axis) * product.grid.axis(product.axis).step
    return np.where(np.isfinite(whole).any(axis=axis), total, np.nan)


def smaller_blocks(most_work):
    """What to set in `crdist_postproc.products.tiling` for blocks with so many voxel-samples at most."""
    return {"BLOCK_WORK": most_work, "COLUMN_WORK": most_work, "LEAST_SIDE": 8, "SMALLEST_SIDE": 1}


def write_products(path, products, *, seed=1, most_work=40_000, n_block=None):
    """Write a store; after ``n_block`` blocks of each product it is left as a killed run would leave it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in smaller_blocks(most_work).items():
            patch.setattr(f"crdist_postproc.products.tiling.{name}", value)
        quantity = products[0].quantity
        attributes = {
            "quantity": {"name": quantity.name, "units": quantity.units, "long_name": quantity.long_name},
            "n_sample": quantity.n_sample,
            "frame": products[0].frame.to_dict(),
        }
        create_products(path, products, attributes)
        write_blocks(path, products, range(10**6 if n_block is None else n_block), seed=seed)
        if n_block is None:
            declare_complete(path)
    return path


def write_blocks(path, products, chosen, *, seed=1):
    """Write some blocks of each product, and the last step if the first is among them."""
    folder = RunFolder(path, "run")
    folder.prepare()
    for product in products:
        samples = values_of(product, seed)
        for block in (*product.blocks(), *product.strips()):
            if block.index in chosen and (product.blocks_write(block) or block.kind == "strip"):
                part = samples[block.region]
                arrays = {**summarise(part, product.quantiles), "coverage": np.isfinite(part[..., 0]).astype(float)}
                if product.per_sample:
                    arrays["per_sample"] = part
                if product.kind == "volume":
                    arrays |= {name + BY_PLANE: np.moveaxis(arrays[name], 2, 0) for name in ("mean", "std")}
                if block.kind == "strip":
                    write_strip(folder, product, block, arrays)
                else:
                    write_block(folder, product, block, BlockResult(arrays))
        if product.kind == "projection" and 0 in chosen:
            residual = np.linspace(-2e-4, 1e-4, N_SAMPLE)
            last = {"total_cartesian": 1 + residual, "total_native": np.ones(N_SAMPLE), "mass_residual": residual}
            write_last_step(folder, product, last)
